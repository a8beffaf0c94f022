"""Records as JSON values: figures without a finite value, scalars of NumPy, files of other versions."""

import json
import math

import numpy as np
import pytest

from tkd_search.results.json_values import finite, from_plain, to_plain
from tkd_search.results.records import EpochRecord, FrontMember, SearchRecord, TrialRecord

TRIAL = {"trial_id": "t1", "student": "s", "config": {"a.b": [1, 2.5]}, "bytes": 8, "parameters": 2}


def test_nan_and_infinities_survive_in_a_file_and_are_null_in_strict_json():
    record = EpochRecord(epoch=1, val_accuracy=math.nan, metrics={"up": math.inf, "down": -math.inf})
    text = json.dumps(to_plain(record))
    assert text == '{"epoch": 1, "val_accuracy": NaN, "metrics": {"up": Infinity, "down": -Infinity}}'
    read = from_plain(EpochRecord, json.loads(text))
    assert math.isnan(read.val_accuracy)
    assert read.metrics == record.metrics
    assert finite(to_plain(record)) == {
        "epoch": 1,
        "val_accuracy": None,
        "metrics": {"up": None, "down": None},
    }


def test_scalars_of_numpy_become_numbers_and_tuples_become_lists():
    assert to_plain({"a": (np.int64(3), np.float32(0.5)), "b": np.bool_(True)}) == {"a": [3, 0.5], "b": True}


def test_keys_that_are_numbers_come_back_as_numbers():
    member = FrontMember(
        trial_id="t1", student="s", bytes=8, parameters=2, ratio=0.1, val_accuracy=0.9, test_accuracy=0.8,
        retention=0.99, config={}, path="students/t1", latency_ms={1: 2.0, 8: 5.5},
    )  # fmt: skip
    assert from_plain(FrontMember, json.loads(json.dumps(to_plain(member)))) == member


def test_keys_of_a_newer_version_are_ignored_at_every_depth():
    plain = {**TRIAL, "state": "complete", "new": 1, "epochs": [{"epoch": 1, "val_accuracy": 1, "new": 2}]}
    trial = from_plain(TrialRecord, plain)
    assert trial.epochs == (EpochRecord(epoch=1, val_accuracy=1.0),)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({**TRIAL, "state": "asleep"}, "state: Input should be 'running', 'complete', 'stopped' or 'failed'"),
        ({**TRIAL, "state": "failed", "epochs": [{"epoch": 1}]}, r"epochs\.0\.val_accuracy: Field required"),
        (TRIAL, "state: Field required"),
        ([], "TrialRecord: Input should be a dictionary"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(plain, message):
    with pytest.raises(ValueError, match=message):
        from_plain(TrialRecord, plain)


def test_text_is_no_search_record():
    with pytest.raises(ValueError, match="SearchRecord"):
        from_plain(SearchRecord, "record")
