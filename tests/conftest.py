"""Hypothesis without a deadline and without judging its own luck.

On a shared machine a slow example says nothing, and the health checks for size and speed fail a run in a hundred of a
strategy that is sound: whole answers with text, reasoning and nested tool arguments are large by nature.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ds4trio", deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow]
)
settings.load_profile("ds4trio")
