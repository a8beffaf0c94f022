"""Training on unlabelled images beside labelled ones."""

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.distill.nets import (
    METHODS,
    TinyStudent,
    digit_bank,
    digit_views,
    distiller,
    held_out,
    same_weights,
    trained_big_model,
    weights,
)
from tkd_search.distill import Distiller, MethodSettings, TrainSettings, evaluate
from tkd_search.distill.interfaces import UNLABELLED
from tkd_search.distill.losses.functional import balanced_class_weights, label_loss
from tkd_search.distill.training.batch_order import batches, steps_per_epoch, unlabelled_per_epoch


@given(
    labelled=st.integers(1, 60),
    unlabelled=st.integers(1, 60),
    ratio=st.one_of(st.none(), st.floats(0.1, 8)),
    batch_size=st.integers(2, 80),
    workers=st.integers(1, 3),
)
def test_every_batch_has_its_share_of_both(
    labelled: int, unlabelled: int, ratio: float | None, batch_size: int, workers: int
) -> None:
    views = digit_views(labelled + unlabelled, 4, unlabelled=unlabelled)
    count = unlabelled_per_epoch(views.labels, ratio)
    steps = steps_per_epoch(labelled + count, batch_size)
    parts = [
        list(batches(views, steps, seed=1, epoch=2, rank=rank, workers=workers, unlabelled=count))
        for rank in range(workers)
    ]
    for shares in zip(*parts, strict=True):
        assert len({len(index) for index, _ in shares}) == 1
        known = [int((views.labels[index] != UNLABELLED).sum()) for index, _ in shares]
        assert max(known) - min(known) <= 1
        rows = torch.cat([index for index, _ in shares])
        assert len(rows) <= max(batch_size, 3)
        assert -workers < len(rows) - (labelled + count) / steps < 1
        assert abs(sum(known) - labelled / steps) < workers
    seen = torch.cat([index for part in parts for index, _ in part])
    assert torch.bincount(seen, minlength=len(views))[:labelled].max() <= 1


@given(unlabelled=st.integers(1, 40), count=st.integers(1, 90), epochs=st.integers(1, 5))
@settings(max_examples=40)
def test_unlabelled_images_are_taken_equally_often(unlabelled: int, count: int, epochs: int) -> None:
    views = digit_views(20 + unlabelled, unlabelled=unlabelled)
    taken = [
        index
        for epoch in range(epochs)
        for index, _ in batches(views, 3, seed=0, epoch=epoch, unlabelled=count)
    ]
    counts = torch.bincount(torch.cat(taken), minlength=len(views))
    assert counts[:20].unique().tolist() == [epochs]
    assert int(counts[20:].sum()) == epochs * count
    assert counts[20:].max() - counts[20:].min() <= 1


def test_the_default_ratio_is_that_of_the_images_up_to_fifteen() -> None:
    def default(labelled: int, unlabelled: int) -> int:
        labels = torch.tensor([0] * labelled + [UNLABELLED] * unlabelled)
        return unlabelled_per_epoch(labels, None)

    assert [default(10, 0), default(10, 7), default(10, 150), default(10, 900)] == [0, 7, 150, 150]


@given(known=st.lists(st.booleans(), min_size=1, max_size=9), smoothing=st.sampled_from([0.0, 0.1]))
def test_the_label_term_is_the_mean_over_labelled_rows(known: list[bool], smoothing: float) -> None:
    torch.manual_seed(len(known))
    logits = nn.Parameter(torch.randn(len(known), 4))
    rows = torch.tensor(known)
    truth = torch.arange(len(known)) % 4
    labels = torch.where(rows, truth, UNLABELLED)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    for given_weights in (None, weights):
        loss = label_loss(logits, labels, smoothing, given_weights, rows.sum().float())
        loss.backward()
        if not any(known):
            assert loss == 0
            assert not logits.grad.any()
        else:
            expected = label_loss(logits[rows], truth[rows], smoothing, given_weights)
            torch.testing.assert_close(loss, expected)


def test_class_weights_do_not_count_unlabelled_images() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    mixed = torch.tensor([0, UNLABELLED, 0, 0, UNLABELLED, 1])
    assert torch.equal(balanced_class_weights(mixed, 3), balanced_class_weights(labels, 3))


MIXED: dict[str, Any] = {"grid": 4, "epochs": 4, "unlabelled": 200}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in METHODS if name != "ce"),
        ("kd", {"balanced": True, "class_weights": "balanced", "unlabelled_ratio": 3.5}),
        ("tkd", {"unlabelled_ratio": 90.0}),  # some batches have no label
    ],
)
def test_every_method_trains_and_resumes_exactly(name: str, options: dict[str, Any]) -> None:
    whole = distiller(METHODS[name], **MIXED, **options)
    whole.run_epoch()
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    losses = whole.run_epoch().losses
    assert all(math.isfinite(value) for value in losses.values())
    resumed = distiller(METHODS[name], **MIXED, **options)
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert resumed.run_epoch().losses == losses
    assert same_weights(weights(whole), weights(resumed))
    alone = distiller(METHODS[name], **MIXED, unlabelled_ratio=0.0)
    assert alone.steps_per_epoch == 2 < whole.steps_per_epoch


def test_plain_training_uses_the_labelled_images_alone() -> None:
    """Also with λ = 0, where F teaches nothing."""
    few = weights_after(distiller(MethodSettings(name="ce"), number=100))
    for method in (MethodSettings(name="ce"), MethodSettings(name="kd", lam=0.0)):
        assert same_weights(weights_after(distiller(method, number=300, unlabelled=200)), few)


def weights_after(made: Distiller) -> dict[str, torch.Tensor]:
    made.run_epoch()
    return weights(made)


def teach(method: MethodSettings, views: Any, bank: Any, **train: Any) -> Distiller:
    torch.manual_seed(0)
    options = TrainSettings(**{"epochs": 10, "batch_size": 64, "lr": 1e-2, **train})
    made = Distiller(TinyStudent(), views, method, options, seed=0, bank=bank, class_count=10)
    while made.epoch < options.epochs:
        made.run_epoch()
    return made


@pytest.mark.parametrize("method", [MethodSettings(name="kd"), MethodSettings()])
def test_unlabelled_images_teach(method: MethodSettings) -> None:
    """At equal steps, 50 labelled digits and 750 unlabelled ones teach more than the 50 alone."""
    few = teach(method, digit_views(50), digit_bank(50), epochs=130)
    many = teach(method, digit_views(800, unlabelled=750), digit_bank(800), epochs=10)
    assert many.step == few.step == 130
    gained = evaluate(many.eval_student(), held_out()) - evaluate(few.eval_student(), held_out())
    assert gained > 0.02


class TestMinConfidence:
    """F is sure about some of the unlabelled images."""

    def rows_seen(self, method: MethodSettings, **options: Any) -> tuple[Distiller, list[int]]:
        made = distiller(method, number=300, unlabelled=200, **options)
        seen: list[int] = []
        made.student.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
        return made, seen

    def test_unsure_images_are_left_out(self) -> None:
        bank, threshold = digit_bank(300), 0.9
        made, seen = self.rows_seen(MethodSettings(name="kd", min_confidence=threshold), epochs=1)
        rows = [bank.rows(view, index) for index, view in made._batches()]
        labelled = [made._reader.labels(index) != UNLABELLED for index, _ in made._batches()]
        sure = [bank.logits[row].float().softmax(1).amax(1) >= threshold for row in rows]
        made.run_epoch()
        assert seen == [int((a | b).sum()) for a, b in zip(labelled, sure, strict=True)]
        assert 100 < sum(seen) < 300

    def test_labelled_images_remain(self) -> None:
        made, seen = self.rows_seen(MethodSettings(name="kd", min_confidence=1 - 1e-9), epochs=1)
        made.run_epoch()
        assert sum(seen) == 100

    def test_batches_of_unsure_images_alone_are_passed_over(self) -> None:
        made, seen = self.rows_seen(
            MethodSettings(min_confidence=1 - 1e-9), epochs=1, batch_size=2, unlabelled_ratio=20.0
        )
        stats = made.run_epoch()
        assert stats is not None
        assert math.isfinite(stats.losses["total"])
        assert len(seen) < made.steps_per_epoch == made.step

    @pytest.mark.parametrize(("views", "mixing"), [(2, {}), (0, {}), (0, {"mixup": 0.5, "cutmix": 1.0})])
    @pytest.mark.parametrize("name", ["dkd", "tkd"])
    def test_f_may_run_live_and_see_mixed_images(self, name: Any, views: int, mixing: dict[str, Any]) -> None:
        torch.manual_seed(0)
        made = Distiller(
            TinyStudent(),
            digit_views(200, views, unlabelled=150),
            MethodSettings(name=name, min_confidence=0.9),
            TrainSettings(epochs=1, batch_size=64, **mixing),
            seed=0,
            big_models=[trained_big_model()],
            class_count=10,
        )
        stats = made.run_epoch()
        assert stats is not None
        assert math.isfinite(stats.losses["total"])
