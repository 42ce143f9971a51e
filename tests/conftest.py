"""What all tests have in common: no KV on the disk of whoever runs them, and Hypothesis without judging its own luck.

There is no deadline: on a shared machine a slow example says nothing. And the health checks for size and speed fail a
run in a hundred of a strategy that is sound: whole answers with text, reasoning and nested arguments are large.
"""

import os

from hypothesis import HealthCheck, settings

# Servers that tests start keep nothing, unless a test gives them a directory.
os.environ["DS4TRIO_KV_DISK"] = "false"

settings.register_profile(
    "ds4trio", deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow]
)
settings.load_profile("ds4trio")
