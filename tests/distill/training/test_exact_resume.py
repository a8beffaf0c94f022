"""Trainings that were stopped go on to the bit: after any epoch and within one."""

import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.distill.nets import (
    FULL,
    METHODS,
    TinyStudent,
    digit_bank,
    digit_views,
    distiller,
    held_out,
    same_weights,
    weights,
)
from tkd_search.distill import Distiller, MethodSettings, TrainSettings, evaluate
from tkd_search.distill.method_settings import ScheduleName
from tkd_search.distill.quantization.number_format import Format


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, {}) for name in METHODS), ("kd", {"balanced": True, "class_weights": "balanced"})],
)
def test_every_method_trains_and_resumes_exactly(name: str, settings: dict[str, Any]) -> None:
    whole = distiller(METHODS[name], grid=4, epochs=4, **settings)
    for _ in range(2):
        whole.run_epoch()
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    whole.eval_student()
    losses = [whole.run_epoch().losses for _ in range(2)]
    assert all(math.isfinite(value) for value in losses[-1].values())

    resumed = distiller(METHODS[name], grid=4, epochs=4, **settings)
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert resumed.epoch == 2
    assert [resumed.run_epoch().losses for _ in range(2)] == losses
    assert same_weights(weights(whole), weights(resumed))
    for a, b in zip(
        whole.eval_student().state_dict().values(), resumed.eval_student().state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


OPTIMISERS = {
    **{name: {"schedule": name} for name in ("schedule_free", "one_cycle", "cosine", "constant")},
    "averaged": {"schedule": "cosine", "ema": 0.95, "clip_norm": 1.0},
    "sgd": {"optimizer": "sgd", "lr": 0.1, "schedule": "cosine", "weight_decay": 5e-4, "ema": 0.9},
    "schedule-free sgd": {"optimizer": "sgd", "lr": 1.0, "weight_decay": 5e-4},
}


@pytest.mark.parametrize("train", OPTIMISERS.values(), ids=OPTIMISERS)
def test_optimisers_and_schedules_resume_exactly_and_learn(train: dict[str, Any]) -> None:
    method = MethodSettings(name="ce")
    whole = distiller(method, epochs=12, number=800, **train)
    for epoch in range(12):
        if epoch == 5:
            state = whole.state_dict()
        whole.run_epoch()
    resumed = distiller(method, epochs=12, number=800, **train)
    resumed.load_state_dict(state)
    while resumed.epoch < 12:
        resumed.run_epoch()
    assert same_weights(weights(whole), weights(resumed))
    assert same_weights(whole.eval_student().state_dict(), resumed.eval_student().state_dict())
    assert evaluate(whole.eval_student(), held_out()) > 0.8


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("schedule", ["schedule_free", "one_cycle"])
@pytest.mark.parametrize("stopped", [2, 5])
def test_training_with_simulated_rounding_resumes_exactly_and_learns(
    format: str, schedule: str, stopped: int
) -> None:
    """The last three of six epochs round; the training stops before and within them."""

    def make(format: str = format) -> Distiller:
        torch.manual_seed(0)
        settings = TrainSettings(epochs=6, batch_size=64, lr=1e-2, schedule=schedule, quantise=0.5)
        return Distiller(
            TinyStudent(),
            digit_views(800),
            MethodSettings(name="kd"),
            settings,
            seed=0,
            bank=digit_bank(800),
            class_count=10,
            format=format,
        )

    whole, resumed = make(), make()
    for epoch in range(6):
        if epoch == stopped:
            buffer = io.BytesIO()
            torch.save(whole.state_dict(), buffer)
        whole.run_epoch()
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    while resumed.epoch < 6:
        resumed.run_epoch()
    ours, theirs = whole.eval_student().state_dict(), resumed.eval_student().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    plain = make("fp32")
    while plain.epoch < 6:
        plain.run_epoch()
    expected = evaluate(plain.eval_student(), held_out())
    assert evaluate(whole.eval_student(), held_out()) > expected - 0.05 > 0.3


def test_dropout_resumes_exactly_and_leaves_the_global_random_state_alone() -> None:
    def make() -> Distiller:
        torch.manual_seed(0)
        return Distiller(
            TinyStudent(dropout=0.5),
            digit_views(),
            MethodSettings(name="kd"),
            TrainSettings(epochs=3, batch_size=64),
            seed=4,
            bank=digit_bank(),
            class_count=10,
        )

    whole = make()
    whole.run_epoch()
    state = whole.state_dict()
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    whole.run_epoch()
    assert torch.equal(torch.random.get_rng_state(), before)
    resumed = make()
    resumed.load_state_dict(state)
    torch.manual_seed(7)
    resumed.run_epoch()
    assert same_weights(weights(whole), weights(resumed))


@pytest.mark.parametrize("format", ["fp32", "int8"])
@pytest.mark.parametrize("schedule", ["schedule_free", "one_cycle"])
def test_a_training_resumes_exactly_within_an_epoch(format: Format, schedule: ScheduleName) -> None:
    def make() -> Distiller:
        torch.manual_seed(0)
        return Distiller(
            TinyStudent(dropout=0.5),
            digit_views(),
            replace(FULL, reselect_every=0.5),
            TrainSettings(epochs=2, batch_size=4, schedule=schedule),
            seed=4,
            bank=digit_bank(grid=4),
            class_count=10,
            format=format,
        )

    whole, states = make(), []
    stats = [whole.run_epoch(between=lambda: states.append(whole.state_dict())) for _ in range(2)]
    assert [(state["epoch"], state["done"]) for state in states] == [(0, 32), (0, 64), (1, 32), (1, 64)]
    for state in states:
        resumed, buffer = make(), io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        resumed.load_state_dict(torch.load(buffer, weights_only=True))
        for expected in stats[state["epoch"] :]:
            found = resumed.run_epoch()
            assert found is not None
            assert expected is not None
            assert (found.losses, found.teachers) == (expected.losses, expected.teachers)
        assert same_weights(weights(whole), weights(resumed))


def test_a_stop_in_mid_epoch_is_undone_by_load_state_dict() -> None:
    made, calls = distiller(FULL, grid=4), []

    def third_time() -> bool:
        calls.append(1)
        return len(calls) == 3

    state = made.state_dict()
    assert made.run_epoch(third_time) is None
    assert made.epoch == 0
    assert len(calls) == 3
    made.load_state_dict(state)
    made.run_epoch()
    whole = distiller(FULL, grid=4)
    whole.run_epoch()
    assert same_weights(weights(made), weights(whole))
