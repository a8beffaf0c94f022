"""Two workers (processes over gloo) with half the batch each train like one with the whole batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from tests.distill.nets import TinyStudent, digit_bank, digit_views, held_out
from tkd_search.distill import Distiller, MethodSettings, TrainSettings
from tkd_search.distill.losses.similarity import cka
from tkd_search.distill.training.flat_parameters import store
from tkd_search.distill.training.reduction import Reduction, SingleProcess, reduction_for
from tkd_search.distill.training.sync_batchnorm import (
    ENOUGH_ROWS,
    AllReduceBatchNorm,
    NcclBatchNorm,
    converted,
    desynchronised,
    synchronised,
)

ROWS = 240
METHODS = {
    "ce": MethodSettings(name="ce"),
    "kd": MethodSettings(name="kd"),
    "dist": MethodSettings(name="dist"),
    "sp": MethodSettings(name="sp"),
    "full": MethodSettings(
        r=0.5,
        alpha=10.0,
        beta=1.0,
        local=2.0,
        local_feature=0.5,
        stage_feature=0.5,
        relation=0.5,
        big_model_term="dist",
        warmup=0.0,
        omega_gradient=0.2,
    ),
    "cos": MethodSettings(feature_reward="cos", warmup=0.0),
    "unbalanced": MethodSettings(name="kd"),
    "unlabelled": MethodSettings(warmup=0.0),
}
UNLABELLED = {"unlabelled": 159, "gated": 159}
"""Number of unlabelled images; two workers have 9 and 8 labelled rows of a batch."""


def trained(
    name: str, reduction: Reduction, batch_size: int = 48, **train: Any
) -> tuple[dict[str, torch.Tensor], dict[str, float], Any]:
    """Return the weights to ship, losses and teachers after two epochs, by default of five batches of 48."""
    torch.manual_seed(0)
    unbalanced = name == "unbalanced"
    made = Distiller(
        TinyStudent(),
        digit_views(ROWS, unlabelled=UNLABELLED.get(name, 0)),
        METHODS[name] if name in METHODS else MethodSettings(min_confidence=0.9),
        TrainSettings(
            epochs=2,
            batch_size=batch_size,
            lr=5e-3,
            class_weights="balanced" if unbalanced else "none",
            **{"schedule": "constant", **train},
        ),
        balanced=unbalanced,
        seed=0,
        bank=digit_bank(ROWS, grid=4),
        reduction=reduction,
        class_count=10,
    )
    joint = any(isinstance(one, AllReduceBatchNorm) for one in made.student.modules())
    assert joint == (reduction.size > 1 and batch_size // reduction.size < ENOUGH_ROWS)
    for _ in range(2):
        stats = made.run_epoch()
    assert stats is not None
    return made.eval_student().state_dict(), stats.losses, stats.teachers


def _run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    reduction = reduction_for(2)
    found = {name: trained(name, reduction) for name in [*METHODS, "gated"]}
    found["mixed"] = trained("ce", reduction, mixup=0.4, cutmix=1.0)
    found["many rows"] = trained("ce", reduction, batch_size=96, schedule="one_cycle")
    found["parts"] = _parts(rank, reduction)
    found["accuracy"] = _accuracy(reduction)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _accuracy(reduction: Reduction) -> float:
    """Return the balanced accuracy of one student on three batches, which the workers share."""
    torch.manual_seed(0)
    train, method = TrainSettings(epochs=1, precision="bf16"), MethodSettings(name="ce")
    made = Distiller(
        TinyStudent(), digit_views(60), method, train, seed=0, reduction=reduction, class_count=10
    )
    images, labels = held_out()[0]
    batches = list(zip(images.split(150), labels.split(150), strict=True))
    return made.evaluate(made.eval_student(), batches[reduction.rank :: reduction.size], "balanced_accuracy")


def _parts(rank: int, reduction: Reduction) -> dict[str, Any]:
    """Return values and averaged gradients of quantities that are not means over samples."""
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(2, 6, 3, generator=generator), torch.randn(12, 4, generator=generator)
    weight = nn.Parameter(torch.ones(3))
    local = x[rank] * weight
    value = cka(reduction.gather(local), target) + reduction.mean(local.mean()).exp()
    value.backward()
    assert weight.grad is not None
    reduction.average_gradients([weight.grad])
    strided = torch.full((2, 4), float(rank))[:, ::2]
    reduction.average_gradients([strided])
    shared = torch.full((2,), float(rank))
    reduction.share([shared])
    norm = synchronised(nn.Sequential(nn.BatchNorm1d(3, momentum=0.3)))
    statistics = nn.Parameter(x[rank].clone())
    (norm(statistics).square() * torch.arange(3.0)).sum().backward()
    half = synchronised(nn.Sequential(nn.BatchNorm1d(3)))
    return {
        "half": half(x[rank].bfloat16()).detach(),
        "value": value.detach(),
        "gradient": weight.grad,
        "shared": shared,
        "strided": strided,
        "operations": _operations_of_averaging(reduction),
        "input_gradient": statistics.grad,
        "norm": desynchronised(norm).state_dict(),
    }


def _operations_of_averaging(reduction: Reduction) -> list[str]:
    """Names of the operations that average the gradients of two groups of parameters."""
    storage = store([list(TinyStudent().parameters()), list(TinyStudent(4).parameters())])
    with torch.profiler.profile() as profile:
        reduction.average_gradients(storage.gradients())
    return [event.name for event in profile.events()]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    digit_bank(ROWS, grid=4)
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(_run_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", METHODS)
def test_two_workers_train_like_one(ranks: list[dict[str, Any]], name: str) -> None:
    alone, losses, teachers = trained(name, SingleProcess())
    for rank in ranks:
        weights, _, chosen = rank[name]
        assert [t[0] for t in chosen] == [t[0] for t in teachers]
        for key, value in alone.items():
            # Ten steps of 5e-3 change a weight by up to 5e-2; AdamW magnifies rounding of small gradients.
            torch.testing.assert_close(
                weights[key], value, rtol=2e-3, atol=1e-3, msg=lambda text, key=key: f"{name} {key}: {text}"
            )
    for term, value in losses.items():
        mean = sum(rank[name][1][term] for rank in ranks) / 2
        assert mean == pytest.approx(value, rel=2e-3, abs=1e-4), term
    for key, value in ranks[0][name][0].items():
        assert torch.equal(value, ranks[1][name][0][key])


def test_two_workers_that_mix_their_own_images_keep_equal_weights(ranks: list[dict[str, Any]]) -> None:
    for key, value in ranks[0]["mixed"][0].items():
        assert torch.equal(value, ranks[1]["mixed"][0][key])
    assert not torch.equal(value, ranks[0]["ce"][0][key])


def test_two_workers_with_many_rows_have_own_batch_statistics_and_equal_networks(
    ranks: list[dict[str, Any]],
) -> None:
    alone, _, _ = trained("ce", SingleProcess(), batch_size=96, schedule="one_cycle")
    statistics = [key for key in alone if key.endswith(("running_mean", "running_var"))]
    assert statistics
    for key, value in ranks[0]["many rows"][0].items():
        assert torch.equal(value, ranks[1]["many rows"][0][key]), key
        if key in statistics:  # own rows are a sample of the batch
            torch.testing.assert_close(value, alone[key], rtol=0.2, atol=0.2)


def test_two_workers_leave_out_unsure_rows_and_agree(ranks: list[dict[str, Any]]) -> None:
    for key, value in ranks[0]["gated"][0].items():
        assert torch.equal(value, ranks[1]["gated"][0][key])
        assert value.isfinite().all()


def test_workers_evaluate_their_shares_to_the_figure_of_one(ranks: list[dict[str, Any]]) -> None:
    assert [rank["accuracy"] for rank in ranks] == [_accuracy(SingleProcess())] * 2


def test_global_quantities_and_their_gradients_are_exact(ranks: list[dict[str, Any]]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, target = (
        torch.randn(2, 6, 3, generator=generator).flatten(0, 1),
        torch.randn(12, 4, generator=generator),
    )
    weight = nn.Parameter(torch.ones(3))
    value = cka(x * weight, target) + (x * weight).mean().exp()
    value.backward()
    for rank in ranks:
        torch.testing.assert_close(rank["parts"]["value"], value.detach())
        torch.testing.assert_close(rank["parts"]["gradient"], weight.grad)
        assert rank["parts"]["shared"].tolist() == [0, 0]
        assert rank["parts"]["strided"].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_gradients_of_all_groups_are_averaged_by_one_collective_without_a_copy(
    ranks: list[dict[str, Any]],
) -> None:
    for rank in ranks:
        operations = rank["parts"]["operations"]
        assert operations.count("c10d::allreduce_") == 1
        assert not {"aten::cat", "aten::clone"} & set(operations)


def test_batch_normalisation_over_workers_equals_that_of_the_whole_batch(ranks: list[dict[str, Any]]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = nn.Parameter(torch.randn(2, 6, 3, generator=generator).flatten(0, 1))
    norm = nn.Sequential(nn.BatchNorm1d(3, momentum=0.3))
    (norm(x).square() * torch.arange(3.0)).sum().backward()
    assert x.grad is not None
    for rank in range(2):
        parts = ranks[rank]["parts"]
        torch.testing.assert_close(
            parts["input_gradient"], x.grad[6 * rank : 6 * rank + 6], rtol=1e-4, atol=1e-5
        )
        assert set(parts["norm"]) == set(norm.state_dict())
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(parts["norm"][name], value)


def test_batch_normalisation_over_workers_supports_half_precision(ranks: list[dict[str, Any]]) -> None:
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    whole = nn.BatchNorm1d(3)(x.flatten(0, 1)).view_as(x)
    for rank in range(2):
        found = ranks[rank]["parts"]["half"]
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), whole[rank].detach(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_conversion_by_torch_keeps_hooks_and_the_original_type(kind: type[nn.Module]) -> None:
    calls: list[int] = []
    plain = nn.Sequential(kind(3)).eval()
    plain[0].register_forward_hook(lambda *_: calls.append(1))
    made = desynchronised(converted(plain, NcclBatchNorm))
    assert type(made[0]) is kind
    made(torch.randn(4, 3, *[2] * (0 if kind is nn.BatchNorm1d else 2)))
    assert calls == [1]


def test_conversion_keeps_the_activation_inside_a_batch_normalisation_of_timm() -> None:
    from tkd_search.models.architectures.timm_networks import timm

    plain = nn.Sequential(timm().layers.BatchNormAct2d(3, act_layer=nn.SiLU)).eval()
    images = torch.randn(4, 3, 2, 2)
    expected = plain(images)
    made = converted(plain, NcclBatchNorm)
    assert torch.equal(made(images), expected)
    back = desynchronised(made)
    assert type(back[0]) is timm().layers.BatchNormAct2d
    assert torch.equal(back(images), expected)


def test_the_reduction_of_one_worker_returns_its_inputs() -> None:
    alone = reduction_for(1)
    x = torch.randn(3)
    assert (alone.rank, alone.size) == (0, 1)
    assert alone.mean(x) is x
    assert alone.gather(x) is x


def test_desynchronised_layers_are_ordinary_and_share_their_tensors() -> None:
    norm = AllReduceBatchNorm(3)
    norm.original = nn.BatchNorm2d
    made = desynchronised(nn.Sequential(nn.Conv2d(1, 3, 1), norm).eval())
    assert type(made[1]) is nn.BatchNorm2d
    assert made[1].weight is norm.weight
    assert not made[1].training
