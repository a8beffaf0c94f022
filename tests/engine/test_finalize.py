"""The end of a search: figures of the front's members."""

import math
from types import SimpleNamespace
from typing import Any

from tkd_search.engine import finalize
from tkd_search.results.records import BigModelRecord, TrialRecord


def test_a_big_model_with_test_accuracy_zero_leaves_retention_nan() -> None:
    trial = TrialRecord(trial_id="t0000", student="s", config={}, bytes=10, parameters=2, state="complete")
    f = BigModelRecord(name="f", bytes=100, parameters=20, val_accuracy=0.0, test_accuracy=0.0)
    prepared: Any = SimpleNamespace(big_model=f)
    member = finalize._member(trial, prepared, {"test_accuracy": 0.5}, None)
    assert math.isnan(member.retention)
    assert member.ratio == 0.1
