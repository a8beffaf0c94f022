"""Hypothesis settings for the tests of the optimisation."""

import pytest
from hypothesis import HealthCheck, settings

# A conformance suite runs the same property for several classes, and a loaded machine is slow.
settings.register_profile(
    "optimize",
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
settings.load_profile("optimize")


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "study.journal"
