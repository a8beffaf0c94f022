"""The training loop: special cases are exact, and evaluation changes nothing."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.distill.nets import (
    FULL,
    DigitViews,
    TinyStudent,
    digit_bank,
    digit_views,
    distiller,
    held_out,
    same_weights,
    trained_big_model,
    weights,
)
from tkd_search.distill import Distiller, Diverged, MethodSettings, TrainSettings, evaluate
from tkd_search.distill.features.bank_builder import compute_bank
from tkd_search.distill.losses.tkd import GeneratedTeachers
from tkd_search.distill.method_settings import BankSettings
from tkd_search.distill.quantization.number_format import Format
from tkd_search.distill.training.batch_order import sample


def after(method: MethodSettings, epochs: int = 1, **train: object) -> dict[str, torch.Tensor]:
    made = distiller(method, grid=4, **train)
    for _ in range(epochs):
        made.run_epoch()
    return weights(made)


def test_lambda_and_beta_zero_is_plain_training() -> None:
    plain = after(MethodSettings(name="ce"))
    assert same_weights(after(MethodSettings(lam=0.0, beta=0.0, gamma=0.5, local=3.0)), plain)
    assert same_weights(after(MethodSettings(name="kd", lam=0.0)), plain)
    assert not same_weights(after(MethodSettings(name="kd")), plain)


@pytest.mark.parametrize("unbalanced", [{"balanced": True}, {"class_weights": "balanced"}])
def test_sampling_and_class_weights_change_the_training(unbalanced: dict[str, Any]) -> None:
    assert not same_weights(after(MethodSettings(name="kd"), **unbalanced), after(MethodSettings(name="kd")))
    # Without the label term, class weights have no effect.
    soft = MethodSettings(name="kd", lam=1.0)
    same = same_weights(after(soft, **unbalanced), after(soft))
    assert same is ("class_weights" in unbalanced)


def test_gamma_and_beta_zero_is_hintons_kd() -> None:
    hinton = after(MethodSettings(name="kd", lam=0.8, tau=3.0))
    special = MethodSettings(
        lam=0.8, tau=3.0, gamma=0.0, beta=0.0, relation=0.0, local=0.0, local_feature=0.0, stage_feature=0.0
    )
    assert same_weights(after(special), hinton)
    assert not same_weights(after(replace(special, gamma=0.3, warmup=0.0)), hinton)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_methods_without_features_train_the_same_from_a_bank_of_logits(name: str) -> None:
    torch.manual_seed(0)
    bank = compute_bank([trained_big_model()], digit_views(), BankSettings(taps=()))
    settings = TrainSettings(epochs=3, batch_size=64, lr=1e-2)
    made = Distiller(
        TinyStudent(), digit_views(), MethodSettings(name=name), settings, seed=0, bank=bank, class_count=10
    )
    made.run_epoch()
    assert same_weights(weights(made), after(MethodSettings(name=name)))


def test_kd_loss_equals_the_papers_formula() -> None:
    """The reported terms of the first batch equal the formula."""
    method = MethodSettings(name="kd", lam=0.6, tau=2.0)
    made = distiller(method, number=50, batch_size=50)
    views, bank = digit_views(50), digit_bank(50)
    torch.manual_seed(0)
    student = TinyStudent()
    index, view = next(made._batches())
    logits = student(views.batch(index, view)).logits
    targets = (bank.logits[bank.rows(view, index)].float() / 2).softmax(1)
    soft = 4 * nn.functional.kl_div((logits / 2).log_softmax(1), targets, reduction="batchmean")
    hard = nn.functional.cross_entropy(logits, views.labels[index])
    stats = made.run_epoch()
    assert stats is not None
    assert stats.losses["total"] == pytest.approx((0.4 * hard + 0.6 * soft).item(), rel=1e-4)


class Deep(TinyStudent):
    """Small weights in many layers: without right statistics of batch norm, its maps vanish."""

    def __init__(self) -> None:
        super().__init__(4)
        blocks = [
            [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()] for _ in range(16)
        ]
        self.body.extend([layer for block in blocks for layer in block])
        for module in self.body:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)


def test_rounding_may_begin_after_a_single_step() -> None:
    """The first rounded step computes nearly what a plain one does; its maps are neither cut off nor lost."""

    def maps(format: Format) -> torch.Tensor:
        torch.manual_seed(0)
        settings = TrainSettings(epochs=2, batch_size=200, quantise=0.5)
        method, views = MethodSettings(name="ce"), digit_views(200)
        made = Distiller(Deep(), views, method, settings, seed=0, class_count=10, format=format)
        assert made.run_epoch() is not None
        seen: list[torch.Tensor] = []
        made.student.body.register_forward_hook(lambda *call: seen.append(call[-1].detach()))
        assert made.run_epoch() is not None
        return seen[-1]

    plain, rounded = maps("fp32"), maps("int8")
    assert (plain - rounded).norm() < 0.2 * plain.norm()


def test_images_that_are_read_ahead_train_the_same() -> None:
    class Stored(DigitViews):
        def read(self, index: torch.Tensor) -> torch.Tensor:
            return self.images[index]

        def batch(
            self, index: torch.Tensor, view: torch.Tensor, stored: torch.Tensor | None = None
        ) -> torch.Tensor:
            rows = self.images[index] if stored is None else stored
            return torch.where((view % 2 == 1)[:, None, None, None], rows.roll(1, 3), rows)

    made = distiller(FULL, grid=4)
    plain = digit_views()
    made._views = Stored(plain.images, plain.labels)
    made.run_epoch()
    assert same_weights(weights(made), after(FULL))


def test_equal_seeds_give_equal_weights() -> None:
    a, b, c = (distiller(FULL, grid=4, seed=seed) for seed in (1, 1, 2))
    for made in (a, b, c):
        made.run_epoch()
    assert same_weights(weights(a), weights(b))
    assert not same_weights(weights(a), weights(c))


def test_evaluation_and_state_dict_do_not_change_the_training() -> None:
    plain, evaluated = distiller(FULL, grid=4), distiller(FULL, grid=4)
    for _ in range(2):
        plain.run_epoch()
        evaluated.run_epoch()
        evaluate(evaluated.eval_student(), held_out())
        evaluated.state_dict()
    assert same_weights(weights(plain), weights(evaluated))


def test_evaluated_weights_are_the_schedule_free_average_with_their_own_statistics() -> None:
    made = distiller(MethodSettings(name="ce"))
    for _ in range(3):
        made.run_epoch()
    found = made.eval_student()
    made._learners._student.eval()
    for (name, ours), theirs in zip(made.student.named_parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6, msg=name)
        assert not theirs.requires_grad
    made._learners._student.train()
    statistics = found.body[1].running_mean
    assert not torch.equal(statistics, made.student.body[1].running_mean)
    assert found.body[1].momentum == 0.1
    assert not any(module.training for module in found.modules())


def test_recalibrated_statistics_weight_every_image_alike() -> None:
    made = distiller(MethodSettings(name="ce"), number=514, epochs=1)
    made.run_epoch()
    convolution, normalisation = list(made.eval_student().modules())[2:4]
    views = digit_views(514)
    maps = convolution(views.batch(*sample(views, 514, seed=0, name="calibration")))
    expected = maps.mean((0, 2, 3))
    torch.testing.assert_close(normalisation.running_mean, expected, rtol=1e-4, atol=1e-5)


def test_a_non_finite_loss_raises_diverged() -> None:
    made = distiller(MethodSettings(name="ce"), lr=1e-2)
    with torch.no_grad():
        made.student.head.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite"):
        made.run_epoch()


def test_every_image_occurs_once_an_epoch_in_batches_of_one_size() -> None:
    made = distiller(MethodSettings(name="ce"), number=300, batch_size=64)
    batches = [index for index, _ in made._batches()]
    assert len(batches) == made.steps_per_epoch == 5
    assert {len(index) for index in batches} == {60}
    assert sorted(torch.cat(batches).tolist()) == list(range(300))


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    made = distiller(MethodSettings(), number=50, batch_size=128)
    assert made.steps_per_epoch == 1
    assert made.run_epoch() is not None


def test_three_images_are_enough() -> None:
    made = distiller(FULL, number=3, grid=4, batch_size=128)
    stats = made.run_epoch()
    assert stats is not None
    assert "feature" not in stats.losses, "the unbiased HSIC needs 4 rows"


def test_epoch_statistics_name_and_weight_the_teachers() -> None:
    stats = distiller(MethodSettings(k=3, masks=2)).run_epoch()
    assert stats is not None
    assert len(stats.teachers) == 3
    assert sum(weight for _, weight in stats.teachers) == pytest.approx(1, abs=1e-5)
    assert [name for name, _ in stats.agreements] == [name for name, _ in stats.teachers]
    assert all(-0.1 < cka <= 1 for _, cka in stats.agreements)
    names = {"features.1", "features.5", "classifier.2", "logits"}
    assert all(name.removesuffix("#1") in names for name, _ in stats.teachers)


def test_teachers_learn_and_every_term_is_reported() -> None:
    made = distiller(replace(FULL, warmup=0.0), grid=4, epochs=6)
    first = made.run_epoch()
    for _ in range(4):
        last = made.run_epoch()
    assert first is not None
    assert last is not None
    assert last.losses["generators"] < first.losses["generators"]
    expected = {
        "labels",
        "big_model",
        "generated",
        "gradient",
        "feature",
        "local",
        "local_feature",
        "stage_feature",
        "relation",
    }
    expected |= {"generators"}
    assert expected | {"total"} == set(last.losses)
    assert last.losses["gradient"] < 0 <= last.losses["total"]


def test_distilling_back_reduces_the_distance_of_teachers_and_student() -> None:
    def disagreement(rho: float) -> float:
        made = distiller(MethodSettings(rho=rho, r=0.0, warmup=0.0, beta=0.0), epochs=6)
        for _ in range(6):
            stats = made.run_epoch()
        assert stats is not None
        return stats.losses["generated"]

    assert disagreement(5.0) < 0.8 * disagreement(0.0)


@pytest.mark.parametrize(
    ("method", "grid", "message"),
    [
        (MethodSettings(name="at"), 0, "bank.grid"),
        (MethodSettings(local=1.0), 0, "bank.grid"),
    ],
)
def test_missing_cells_are_refused(method: MethodSettings, grid: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distiller(method, grid=grid)


def test_missing_or_mismatched_banks_are_refused() -> None:
    settings = TrainSettings(epochs=1)
    with pytest.raises(ValueError, match="big_models"):
        Distiller(TinyStudent(), digit_views(), MethodSettings(), settings, seed=0, class_count=10)
    with pytest.raises(ValueError, match="the bank has"):
        Distiller(
            TinyStudent(),
            digit_views(200),
            MethodSettings(),
            settings,
            seed=0,
            bank=digit_bank(300),
            class_count=10,
        )


def test_plain_training_needs_no_bank_and_trains_a_big_model() -> None:
    settings = TrainSettings(epochs=2, schedule="one_cycle", batch_size=64)
    made = Distiller(
        TinyStudent(16), digit_views(600, 0), MethodSettings(name="ce"), settings, seed=0, class_count=10
    )
    assert made.run_epoch() is not None


@pytest.mark.parametrize("method", [MethodSettings(name="dist"), MethodSettings(big_model_term="dist")])
def test_a_last_layer_initialised_to_zero_learns_from_dist(method: MethodSettings) -> None:
    torch.manual_seed(0)
    student = TinyStudent()
    nn.init.zeros_(student.head.weight)
    nn.init.zeros_(student.head.bias)
    settings = TrainSettings(epochs=5, batch_size=64, lr=1e-2)
    made = Distiller(student, digit_views(), method, settings, seed=0, bank=digit_bank(), class_count=10)
    for _ in range(5):
        made.run_epoch()
    assert evaluate(made.eval_student(), held_out()) > 0.4


def test_bfloat16_trains() -> None:
    stats = distiller(FULL, grid=4, precision="bf16").run_epoch()
    assert stats is not None
    assert math.isfinite(stats.losses["total"])


class NoMaps(TinyStudent):
    def forward(self, images: torch.Tensor):
        return super().forward(images)._replace(maps=None)


def test_a_student_without_maps_has_no_local_teachers() -> None:
    made = Distiller(
        NoMaps(),
        digit_views(),
        replace(FULL, warmup=0.0),
        TrainSettings(epochs=1),
        seed=0,
        bank=digit_bank(grid=4),
        class_count=10,
    )
    stats = made.run_epoch()
    assert stats is not None
    assert not {"local", "local_feature"} & set(stats.losses)


def test_selection_is_renewed_every_so_many_epochs() -> None:
    made = distiller(MethodSettings(selection="random", reselect_every=0.5, k=2), epochs=8)
    objective = made.objective
    assert isinstance(objective, GeneratedTeachers)
    selected = []
    for _ in range(8):
        made.run_epoch()
        selected.append(objective.teachers())
    assert len(set(selected[1:4])) == 1
    assert len(set(selected[4:])) == 1
    assert len(set(selected)) == 3, "before the first epoch, after it, and after half of the epochs"
