"""Parts of the training loop: parameter storage, order of images, schedules, statistics of an epoch."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.distill.nets import DigitViews, TinyStudent, digit_views
from tkd_search.distill import Diverged, TrainSettings
from tkd_search.distill.training.batch_order import batches, sample, steps_per_epoch
from tkd_search.distill.training.epoch_stats import Means
from tkd_search.distill.training.flat_parameters import FlatParameters, SeparateParameters, store
from tkd_search.distill.training.layer_rates import LEVELS, layer_rates
from tkd_search.distill.training.learners import Learners
from tkd_search.distill.training.reduction import SingleProcess
from tkd_search.distill.training.schedule import rate
from tkd_search.seeds import child_seed


def network() -> nn.Module:
    torch.manual_seed(0)
    return TinyStudent().to(memory_format=torch.channels_last)


def learners_of(
    parameters: list[nn.Parameter],
    train: TrainSettings,
    *,
    total: int = 50,
    names: list[str] | None = None,
    rates: list[float] | None = None,
) -> Learners:
    named = list(zip(names or [""] * len(parameters), parameters, strict=True))
    device = torch.device("cpu")
    return Learners(
        named, [], train, total=total, reduction=SingleProcess(), device=device, rates=rates or []
    )


def test_flat_parameters_keep_values_formats_and_gradients() -> None:
    plain, flat = network(), network()
    made = FlatParameters([list(flat.parameters())])
    images = torch.randn(8, 1, 8, 8)
    for model in (plain, flat):
        model(images).logits.square().sum().backward()
    for ours, theirs in zip(plain.parameters(), flat.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()
        torch.testing.assert_close(ours.grad, theirs.grad)
    made.zero_grad()
    assert all(p.grad is not None and not p.grad.any() for p in flat.parameters())


@pytest.mark.parametrize("kind", ["adamw", "schedule_free"])
def test_one_flat_parameter_is_optimised_like_many(kind: str) -> None:
    import schedulefree

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if kind == "adamw":
            return torch.optim.AdamW(parameters, 1e-2, fused=True)
        made = schedulefree.AdamWScheduleFree(parameters, 1e-2, weight_decay=0.05)
        made.train()
        return made

    plain, flat = network(), network()
    whole = FlatParameters([list(flat.parameters())])
    steps = (optimizer(list(plain.parameters())), optimizer(whole.groups[0]))
    for i in range(4):
        images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(i))
        plain.zero_grad()
        whole.zero_grad()
        for model, step in zip((plain, flat), steps, strict=True):
            model(images).logits.square().sum().backward()
            step.step()
    for ours, theirs in zip(plain.parameters(), flat.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_copy_of_a_flat_network_has_its_own_memory() -> None:
    flat = network()
    FlatParameters([list(flat.parameters())])
    before = copy.deepcopy(flat)
    with torch.no_grad():
        next(flat.parameters()).add_(1)
    assert not torch.equal(next(before.parameters()), next(flat.parameters()))


def test_the_gradients_of_all_groups_are_one_buffer() -> None:
    first, second = network(), network()
    made = store([list(first.parameters()), list(second.parameters())])
    images = torch.randn(8, 1, 8, 8)
    sum(model(images).logits.square().sum() for model in (first, second)).backward()
    (buffer,) = made.gradients()
    start, end = buffer.data_ptr(), buffer.data_ptr() + buffer.nbytes
    for parameter in [*first.parameters(), *second.parameters()]:
        assert start <= parameter.grad.data_ptr() < end
    assert [len(group) for group in made.groups] == [1, 1]


@given(
    layers=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40),
    decay=st.floats(0.1, 1.0),
)
def test_rates_of_layers_rise_to_the_whole_rate_of_the_last(layers: list[str], decay: float) -> None:
    names = [f"{i}.{name}.{kind}" for i, name in enumerate(layers) for kind in ("weight", "bias")]
    rates = layer_rates(names, decay)
    assert rates == sorted(rates)
    assert rates[::2] == rates[1::2]
    assert rates[-1] == 1
    assert rates[0] >= decay**LEVELS * (1 - 1e-9)


def test_parameters_learn_at_their_share_of_the_rate() -> None:
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    train = TrainSettings(lr=0.1, weight_decay=0.0, schedule="constant")
    learners = learners_of(parameters, train, rates=[0.1, 1.0])
    learners.update([parameter.sum() for parameter in parameters], 0)
    slow, fast = (1 - parameter.detach() for parameter in parameters)
    torch.testing.assert_close(fast, 10 * slow, rtol=1e-3, atol=0.0)


OPTIMISERS = [
    TrainSettings(lr=0.1, weight_decay=0.0, optimizer=optimizer, schedule=schedule, ema=ema)
    for optimizer in ("adamw", "sgd")
    for schedule in ("schedule_free", "one_cycle", "cosine", "constant")
    for ema in (0.0, 0.5)
    if not (ema and schedule == "schedule_free")
]


@pytest.mark.parametrize("train", OPTIMISERS, ids=lambda t: f"{t.optimizer}-{t.schedule}-{t.ema}")
@pytest.mark.parametrize("types", [(torch.float32, torch.float64), (torch.float32, torch.float32)])
def test_averages_have_the_order_of_the_parameters_and_decrease_the_loss(
    train: TrainSettings, types: tuple[torch.dtype, torch.dtype]
) -> None:
    """The first parameter is spared from weight decay, so it is stored behind the second one."""
    parameters = [nn.Parameter(torch.ones(3, dtype=types[0])), nn.Parameter(torch.ones(2, 4, dtype=types[1]))]
    separate = isinstance(store([parameters]), SeparateParameters)
    assert separate == (types[0] is not types[1])
    learners = learners_of(parameters, train, total=60)
    for step in range(60):
        learners.update([parameter.square().sum() for parameter in parameters], step)
    for parameter, value in zip(parameters, learners.averaged(), strict=True):
        assert value.shape == parameter.shape
        assert value.dtype == parameter.dtype
        assert value.abs().max() < 0.5


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["schedule_free", "constant"])
def test_weight_decay_spares_norms_biases_and_activation_parameters(optimizer: str, schedule: str) -> None:
    named = {
        "norm.weight": nn.Parameter(torch.ones(4)),
        "layer.weight": nn.Parameter(torch.ones(4, 4)),
        "heads.bias": nn.Parameter(torch.ones(4, 1, 4)),
        "generators.theta": nn.Parameter(torch.ones(4, 1)),
    }
    train = TrainSettings(lr=0.1, weight_decay=0.5, optimizer=optimizer, schedule=schedule)
    learners = learners_of(list(named.values()), train, names=list(named))
    for step in range(10):
        learners.update([0 * parameter.sum() for parameter in named.values()], step)
    for name, parameter in named.items():
        changed = not torch.equal(parameter.detach(), torch.ones_like(parameter))
        assert changed == (name == "layer.weight"), name


def test_clipping_bounds_the_norm_of_the_whole_gradient() -> None:
    """SGD at a constant rate moves by rate × gradient (1 + momentum) in its first step."""
    moved = {}
    for limit in (0.0, 0.3, 1e6):
        parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 4))]
        train = TrainSettings(lr=0.1, weight_decay=0.0, optimizer="sgd", schedule="constant", clip_norm=limit)
        learners_of(parameters, train, total=1).update([3 * p.sum() for p in parameters], 0)
        moved[limit] = torch.cat([(1 - p.detach()).flatten() for p in parameters]).norm().item()
    assert moved[0.3] == pytest.approx(0.1 * 1.9 * 0.3, rel=1e-3)
    assert moved[0.0] == moved[1e6] == pytest.approx(0.1 * 1.9 * 3 * 11**0.5, rel=1e-3)


def test_the_average_of_weights_forgets_its_start_and_lags_behind() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    train = TrainSettings(
        lr=1.0, weight_decay=0.0, optimizer="sgd", schedule="constant", ema=0.9, clip_norm=0.1
    )
    learners = learners_of([parameter], train, total=1)
    expected = 0.0
    for step in range(100):
        learners.update([-parameter.sum()], step)
        kept = min(0.9, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * parameter.item()
    assert learners.averaged()[0].item() == pytest.approx(expected, rel=1e-4)
    assert 0.8 * parameter.item() < expected < parameter.item()


@given(
    images=st.integers(2, 300),
    batch_size=st.integers(2, 80),
    workers=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_every_image_occurs_once_an_epoch_over_all_workers(
    images: int, batch_size: int, workers: int, epoch: int
) -> None:
    views = digit_views(images, 4)
    steps = steps_per_epoch(images, batch_size)
    parts = [
        list(batches(views, steps, seed=1, epoch=epoch, rank=rank, workers=workers))
        for rank in range(workers)
    ]
    for shares in zip(*parts, strict=True):
        assert len({len(index) for index, _ in shares}) == 1
        most = 3 if batch_size == 2 and images % 2 else batch_size
        assert sum(len(index) for index, _ in shares) <= most
    seen = [i for part in parts for index, _ in part for i in index.tolist()]
    assert len(seen) == len(set(seen))
    assert images - len(seen) <= steps * (workers - 1)
    assert all(0 <= v < 4 for part in parts for _, view in part for v in view.tolist())


def unbalanced_views() -> DigitViews:
    """Return 1,000 images of which 900 are of class 0, 90 of class 2 and 10 of class 7."""
    labels = torch.tensor([0] * 900 + [2] * 90 + [7] * 10)
    return DigitViews(torch.zeros(1000, 1, 8, 8), labels)


def test_no_batch_has_one_image():
    assert [steps_per_epoch(images, 2) for images in (1, 2, 3, 4, 5)] == [1, 1, 1, 2, 2]


def test_balanced_epochs_draw_all_classes_and_their_images_equally() -> None:
    views = unbalanced_views()
    drawn = torch.cat(
        [index for epoch in range(30) for index, _ in batches(views, 8, seed=0, epoch=epoch, balanced=True)]
    )
    assert len(drawn) == 30 * 1000
    counts = torch.bincount(views.labels[drawn], minlength=10)
    # A class's count has standard deviation 82: six of them.
    assert (counts[[0, 2, 7]] - 10_000).abs().max() < 500
    assert counts.sum() == counts[[0, 2, 7]].sum()
    rare = torch.bincount(drawn, minlength=1000)[990:]
    assert (rare - 1000).abs().max() < 200


def test_balanced_workers_share_the_batches_of_one() -> None:
    views = unbalanced_views()
    alone = [index for index, _ in batches(views, 8, seed=0, epoch=3, balanced=True)]
    parts = [
        [index for index, _ in batches(views, 8, seed=0, epoch=3, rank=rank, workers=2, balanced=True)]
        for rank in range(2)
    ]
    for whole, shares in zip(alone, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(shares), whole[: len(whole) // 2 * 2])


@pytest.mark.parametrize("balanced", [False, True])
def test_the_order_depends_on_epoch_and_seed(balanced: bool) -> None:
    views = digit_views(50)

    def order(epoch: int, seed: int = 0) -> list[int]:
        made = batches(views, 5, seed=seed, epoch=epoch, balanced=balanced)
        return torch.cat([index for index, _ in made]).tolist()

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=1)


def test_freely_drawn_views_have_seeds_as_ids() -> None:
    _, view = sample(digit_views(50, views=0), 50, seed=0, name="x")
    assert len(set(view.tolist())) == 50
    assert int(view.min()) >= 0


def test_samples_are_fixed_by_name() -> None:
    views = digit_views(50)
    assert torch.equal(sample(views, 10, seed=0, name="a")[0], sample(views, 10, seed=0, name="a")[0])
    assert not torch.equal(sample(views, 10, seed=0, name="a")[0], sample(views, 10, seed=0, name="b")[0])
    assert len(sample(views, 99, seed=0, name="a")[0]) == 50


@pytest.mark.parametrize("schedule", ["schedule_free", "one_cycle", "cosine", "constant"])
@pytest.mark.parametrize("total", [1, 2, 7, 1000])
def test_rates_stay_above_zero_and_reach_their_peak(schedule: str, total: int) -> None:
    rates = [rate(schedule, step, total) for step in range(total)]
    assert all(0 < value <= 1 for value in rates)
    if total == 1000:
        assert max(rates) == pytest.approx(1)


def test_one_cycle_equals_torchs_schedule() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    # The last phase of torch's schedule is one step shorter, hence the tolerance.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1001, pct_start=0.2)
    for step in range(1000):
        assert rate("one_cycle", step, 1000) == pytest.approx(optimizer.param_groups[0]["lr"], abs=6e-3)
        optimizer.step()
        schedule.step()


def test_child_seeds_differ_by_path_and_repeat() -> None:
    assert child_seed(0, "a", 1) == child_seed(0, "a", 1)
    assert (
        len({child_seed(0), child_seed(1), child_seed(0, "a"), child_seed(0, "b"), child_seed(0, "a", 1)})
        == 5
    )
    assert 0 <= child_seed(123, "x") < 2**63


def test_means_are_per_term_and_the_total_excludes_teacher_terms() -> None:
    means = Means()
    means.add({"labels": torch.tensor(1.0), "generators": torch.tensor(9.0)})
    means.add({"labels": torch.tensor(3.0), "feature": torch.tensor(4.0), "generators": torch.tensor(9.0)})
    assert means.check(0) == {"labels": 2.0, "feature": 4.0, "generators": 9.0, "total": 6.0}
    means.add({"generators": torch.tensor(math.nan)})
    with pytest.raises(Diverged, match="epoch 5"):
        means.check(4)
