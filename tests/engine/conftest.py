"""Hypothesis without deadlines: the machine may be busy, and no test here is about time."""

from hypothesis import HealthCheck, settings

# Conformance suites are inherited on purpose, so one test method runs in several classes.
settings.register_profile(
    "search", deadline=None, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow]
)
settings.load_profile("search")
