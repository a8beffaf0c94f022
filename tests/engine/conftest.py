"""The digits, and Hypothesis without deadlines: the machine may be busy, and no test here is about time."""

import pytest
from hypothesis import HealthCheck, settings

from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data

# Conformance suites are inherited on purpose, so one test method runs in several classes.
settings.register_profile(
    "search", deadline=None, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow]
)
settings.load_profile("search")


@pytest.fixture(scope="module")
def data():
    return load_data(load_config(None, []).settings().data)
