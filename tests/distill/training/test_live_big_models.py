"""Big models that run in every step, and copies of them that learn from the student."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.distill.nets import (
    FULL,
    TinyBig,
    TinyStudent,
    digit_views,
    distiller,
    held_out,
    trained_big_model,
)
from tkd_search.distill import Distiller, MethodSettings, TrainSettings, evaluate
from tkd_search.distill.features.bank_builder import compute_bank
from tkd_search.distill.features.signal_source import LearningSource
from tkd_search.distill.method_settings import BankSettings
from tkd_search.distill.training.learners import copied
from tkd_search.models.torchvision_compat import torchvision


def live(method: MethodSettings, big: nn.Module, views: int = 2, bank: bool = True) -> Distiller:
    torch.manual_seed(0)
    data = digit_views(200, views)
    template = compute_bank([trained_big_model()], data, BankSettings(width=32, grid=4)) if bank else None
    settings = TrainSettings(epochs=2, batch_size=64, lr=1e-2)
    return Distiller(
        TinyStudent(), data, method, settings, seed=0, bank=template, big_models=[big], class_count=10
    )


@pytest.mark.parametrize("method", [MethodSettings(name="kd"), FULL, MethodSettings(name="at")])
@pytest.mark.parametrize("bank", [True, False])
def test_freely_drawn_views_train_with_f_run_live(method: MethodSettings, bank: bool) -> None:
    stats = live(method, trained_big_model(), 0, bank).run_epoch()
    assert stats is not None
    assert math.isfinite(stats.losses["total"])


def test_a_live_big_model_keeps_no_hooks() -> None:
    big = TinyBig().eval()
    live(MethodSettings(name="tkd"), big, 0, True).run_epoch()
    assert not any(module._forward_hooks for module in big.modules())


def test_live_f_and_its_bank_give_the_same_loss() -> None:
    from_bank = distiller(MethodSettings(name="kd"), number=200, epochs=2)
    torch.manual_seed(0)
    without = Distiller(
        TinyStudent(),
        digit_views(200),
        MethodSettings(name="kd"),
        from_bank.train,
        seed=0,
        big_models=[trained_big_model()],
        class_count=10,
    )
    a, b = from_bank.run_epoch(), without.run_epoch()
    assert a is not None
    assert b is not None
    assert a.losses["total"] == pytest.approx(b.losses["total"], rel=1e-2)


def test_distil_back_into_the_big_model_updates_a_copy_and_resumes() -> None:
    original = trained_big_model()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    method = replace(FULL, distil_back="big_model", rho=0.5)
    made = live(method, original)
    stats = made.run_epoch()
    assert stats is not None
    assert stats.losses["distil_back"] > 0
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    state = made.state_dict()
    changed = [
        name for name, value in state["big_models"].items() if not torch.equal(value, before[name[2:]])
    ]
    assert any("weight" in name for name in changed)
    assert not any("running" in name for name in changed), "batch statistics must not change"
    again = live(method, original)
    again.load_state_dict(state)
    assert again.run_epoch().losses == made.run_epoch().losses


def test_a_copy_whose_modules_have_versions_resumes() -> None:
    def source() -> LearningSource:
        network = torchvision.models.mnasnet0_5(num_classes=10)
        return LearningSource([network], None, MethodSettings(), features=False, cells=False)

    first, second = source(), source()
    second.load_state_dict(copied(first.state_dict()))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_copy_that_learns_is_read_without_gradients_where_none_are_wanted() -> None:
    source = LearningSource([TinyBig()], None, MethodSettings(), features=False, cells=False)
    images = torch.randn(4, 1, 8, 8)
    assert source.read(torch.zeros(4).long(), torch.arange(4), images).logits.requires_grad
    with torch.no_grad():
        assert not source.read(torch.zeros(4).long(), torch.arange(4), images).logits.requires_grad


def test_the_big_model_keeps_its_accuracy_when_it_is_distilled_back_into() -> None:
    """The generators' learning rate does not apply to the copy of F."""
    made = live(MethodSettings(distil_back="big_model", generator_lr=0.1), trained_big_model())
    before = evaluate(trained_big_model(), held_out())
    made.run_epoch()
    after = evaluate(made._source.models[0], held_out())
    assert after > before - 0.02


def test_distil_back_reduces_the_distance_of_big_model_and_student() -> None:
    def agreement(rho: float) -> float:
        made = live(
            replace(MethodSettings(), distil_back="big_model", rho=rho, big_model_lr=1e-2), TinyBig().eval()
        )
        made.run_epoch()
        source = made._source.models[0]
        images = digit_views(200).images
        with torch.no_grad():
            q = made.student.eval()(images).logits.softmax(1)
            return float((source(images).softmax(1) - q).abs().mean())

    assert agreement(20.0) < agreement(0.0)
