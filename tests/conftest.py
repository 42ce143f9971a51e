"""Hypothesis without a deadline: on a shared machine a slow example says nothing."""

from hypothesis import settings

settings.register_profile("ds4trio", deadline=None)
settings.load_profile("ds4trio")
