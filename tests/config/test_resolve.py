"""From a point of the space to the settings of a job, and K within the number of candidates."""

import math
from pathlib import Path

import pytest

from tkd_search.config.experiment_file import load_config
from tkd_search.config.resolve import bank_settings, clip_k, resolve
from tkd_search.config.sections import TrialSettings
from tkd_search.config.settings_json import from_json, to_json


def test_settings_in_a_job_have_absolute_paths_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker process has another working directory than the user's shell."""
    (tmp_path / "f.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    given = load_config(None, ["big_model.weights=f.safetensors"])
    assert resolve(given).big_models[0].weights == str(tmp_path / "f.safetensors")
    assert given.settings().big_models[0].weights == "f.safetensors"
    named = load_config(None, ["big_model.weights=IMAGENET1K_V1"])
    assert resolve(named).big_models[0].weights == "IMAGENET1K_V1"


def test_json_keeps_every_value_that_a_worker_needs() -> None:
    given = [
        "data.mean=[0.5]",
        "data.std=[0.25]",
        "big_model.args={a: [1, {b: null}]}",
        "bank.taps=['layer*', fc]",
        "student.args={share: .inf}",
        "method.selection_temperature=.inf",
        "training.lr=1e-3",
        "search.metric=macro_f1",
    ]
    settings = load_config(None, given).settings({"method.k": 4})
    sent = from_json(to_json(settings))
    parts = ("seed", "data", "big_models", "bank", "student", "method", "training", "metric")
    assert sent == TrialSettings(**{part: getattr(settings, part) for part in parts})
    assert math.isinf(sent.method.selection_temperature)


@pytest.mark.parametrize(
    ("space", "point", "expected"),
    [
        ("{int: [1, 36]}", {"method.k": 36, "method.masks": 2}, 10),
        ("{int: [1, 36]}", {"method.k": 36, "method.masks": 1}, 5),
        ("{int: [1, 36]}", {"method.k": 4, "method.masks": 1}, 4),
        ("{int: [8, 36]}", {"method.k": 36, "method.masks": 1}, 8),  # no value of the space fits
        ("{choice: [3, 36]}", {"method.k": 36, "method.masks": 1}, 3),
        ("{choice: [36, 7]}", {"method.k": 36, "method.masks": 1}, 7),
    ],
)
def test_k_is_limited_to_taps_times_masks_within_the_space(
    space: str, point: dict[str, int], expected: int
) -> None:
    config = load_config(None, ["method.name=tkd", f"method.k={space}", "method.masks={choice: [1, 2]}"])
    clipped = clip_k(config, point, taps=5)
    assert clipped == {**point, "method.k": expected}
    assert config.space.leaves["method.k"].contains(clipped["method.k"])


def test_a_point_without_k_stays_as_it_is() -> None:
    config = load_config(None, [])
    assert clip_k(config, {"method.name": "kd"}, taps=1) == {"method.name": "kd"}


@pytest.mark.parametrize(
    ("method", "taps", "grid"),
    [
        ("{name: {choice: [ce, kd, dkd, dist]}}", False, 0),
        ("{name: {choice: [kd, hint]}}", True, 0),
        ("{name: at}", True, 4),
        ("{name: tkd}", True, 0),
        ("{name: tkd, stage_feature: {float: [0.0, 12.0]}}", True, 4),
        ("{name: {choice: [kd, tkd]}, local: {choice: [0.0, 4.0]}}", True, 4),
        ("{name: tkd, gamma: 0.0, beta: 0.0, relation: 0.0, stage_feature: 0.0}", False, 0),
    ],
)
def test_the_bank_holds_what_some_method_of_the_search_reads(method: str, taps: bool, grid: int) -> None:
    config = load_config(None, [f"method={method}", "bank.grid=4", "search.enqueue=[]"])
    assert bank_settings(config) == resolve(config).bank
    assert (bool(bank_settings(config).taps), bank_settings(config).grid) == (taps, grid)
