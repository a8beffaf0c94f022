"""Mixed images: F and student see the same ones, labels have their shares, resumes are exact."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.distill.nets import TinyStudent, digit_bank, digit_views, trained_big_model
from tkd_search.distill import Distiller, MethodSettings, TrainSettings
from tkd_search.distill.training.mixing import mixed

KINDS = [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}]
METHODS = {
    **{name: MethodSettings(name=name) for name in ("ce", "kd", "dkd", "at")},
    "tkd": MethodSettings(warmup=0.0, relation=0.5, stage_feature=0.5),
    "back": MethodSettings(distil_back="big_model"),
}


def images(count: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, 12, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("seed", range(20))
def test_mixup_is_the_weighted_mean_of_an_image_and_the_one_before(seed: int) -> None:
    made, share = mixed(images(), mixup=0.4, cutmix=0.0, seed=seed)
    assert 0 <= share <= 1
    torch.testing.assert_close(made, share * images() + (1 - share) * images().roll(1, 0))


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_pastes_one_box_and_its_share_is_that_of_the_pixels(seed: int) -> None:
    made, share = mixed(images(), mixup=0.0, cutmix=1.0, seed=seed)
    first = made == images()
    assert torch.equal(made, torch.where(first, images(), images().roll(1, 0)))
    assert float(first.float().mean()) == pytest.approx(share, abs=1e-6)
    kept = first[0, 0]
    rows, columns = ~kept.all(1), ~kept.all(0)
    assert torch.equal(~kept, rows[:, None] & columns[None, :]), "the pasted pixels are not a box"


@pytest.mark.parametrize("kinds", KINDS)
def test_the_seed_alone_determines_the_mixture_and_shares_vary(kinds: dict[str, float]) -> None:
    kinds = {"mixup": 0.0, "cutmix": 0.0, **kinds}
    shares = [mixed(images(), **kinds, seed=seed)[1] for seed in range(300)]
    assert shares == [mixed(images(), **kinds, seed=seed)[1] for seed in range(300)]
    assert len(set(shares)) > 50
    assert 0.4 < sum(shares) / 300 < 0.75


def live(method: MethodSettings, views: int = 0, **train: Any) -> Distiller:
    torch.manual_seed(0)
    settings = TrainSettings(**{"epochs": 3, "batch_size": 50, "lr": 1e-2, **train})
    data = digit_views(200, views)
    return Distiller(
        TinyStudent(), data, method, settings, seed=0, big_models=[trained_big_model()], class_count=10
    )


def test_f_and_the_student_see_the_same_mixed_images_and_labels_are_mixed_alike() -> None:
    """The first loss equals the papers' formula, computed from the images as they were shown to F."""
    made = live(MethodSettings(name="kd", lam=0.6, tau=2.0), mixup=1.0, epochs=1, batch_size=200)
    shown: list[torch.Tensor] = []
    made._source.models[0].register_forward_pre_hook(lambda _, args: shown.append(args[0]))
    ((index, view),) = list(made._batches())
    plain, labels = digit_views(200, 0).batch(index, view), digit_views(200).labels[index]
    stats = made.run_epoch()
    assert stats is not None
    step = (plain - plain.roll(1, 0)).flatten()
    share = float((shown[0] - plain.roll(1, 0)).flatten() @ step / (step @ step))
    assert 0.01 < share < 0.99
    torch.manual_seed(0)
    z, a = TinyStudent()(shown[0]).logits, trained_big_model()(shown[0])
    soft = 4 * nn.functional.kl_div((z / 2).log_softmax(1), (a / 2).softmax(1), reduction="batchmean")
    first, second = (nn.functional.cross_entropy(z, y) for y in (labels, labels.roll(1)))
    expected = 0.6 * soft + 0.4 * (share * first + (1 - share) * second)
    assert stats.losses["total"] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kinds", KINDS[2:])
def test_every_method_trains_on_mixed_images_and_resumes_exactly(name: str, kinds: dict[str, float]) -> None:
    whole, resumed = live(METHODS[name], **kinds), live(METHODS[name], **kinds)
    whole.run_epoch()
    resumed.load_state_dict(whole.state_dict())
    for _ in range(2):
        ours, theirs = whole.run_epoch(), resumed.run_epoch()
        assert ours is not None
        assert theirs is not None
        assert ours.losses == theirs.losses
        assert math.isfinite(ours.losses["total"])
    plain = live(METHODS[name])
    plain.run_epoch()
    assert not torch.equal(plain.student.head.weight, whole.student.head.weight)


def test_a_bank_has_no_mixed_images() -> None:
    settings, data = TrainSettings(mixup=0.2), digit_views()
    with pytest.raises(ValueError, match="mixup"):
        Distiller(
            TinyStudent(),
            data,
            MethodSettings(name="kd"),
            settings,
            seed=0,
            bank=digit_bank(),
            class_count=10,
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_live_f_computes_in_the_students_precision_in_eval_mode_without_gradients(precision: str) -> None:
    made = live(MethodSettings(name="hint"), precision=precision)
    seen: list[tuple[torch.dtype, bool, bool]] = []
    module = made._source.models[0].features[3]
    module.register_forward_hook(
        lambda module, _, output: seen.append((output.dtype, output.requires_grad, module.training))
    )
    stats = made.run_epoch()
    assert stats is not None
    assert math.isfinite(stats.losses["total"])
    expected = torch.float32 if precision == "fp32" else torch.bfloat16
    assert set(seen) == {(expected, False, False)}
