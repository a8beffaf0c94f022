"""Simulated rounding in training: state, copies, flat parameters, averages, workers, autocast, compiling."""

import copy

import pytest
import schedulefree
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from tests.distill.nets import TinyStudent, digit_views
from tkd_search.distill.quantization.simulation import (
    RoundedLayer,
    calibrate,
    input_grids,
    observe,
    plain,
    set_rounding,
    simulate,
    update_ranges,
)
from tkd_search.distill.training.flat_parameters import FlatParameters
from tkd_search.distill.training.reduction import Reduction, SingleProcess, reduction_for
from tkd_search.distill.training.schedule import averaged

ROUNDED = ("int8", "int4")


def images(number=64):
    return digit_views(number).images


def student(format, seed=0):
    torch.manual_seed(seed)
    network = TinyStudent()
    simulate(network, format)
    return network


def step(network, optimizer, rows, reduction: Reduction | None = None):
    """One training step on rows (a slice) of the digits."""
    views = digit_views(300)
    network.train()
    observe(network, True)
    loss = nn.functional.cross_entropy(network(views.images[rows]).logits, views.labels[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    update_ranges(network, reduction)
    observe(network, False)
    return loss.item()


@pytest.mark.parametrize("format", ["fp32", "fp16", "int8", "int4"])
def test_switched_off_it_is_the_network_itself(format):
    plain_student, simulated = student("fp32").eval(), student(format).eval()
    assert torch.equal(simulated(images()).logits, plain_student(images()).logits)
    assert [n for n, _ in simulated.named_parameters()] == [n for n, _ in plain_student.named_parameters()]
    new = simulated.state_dict().keys() - plain_student.state_dict().keys()
    assert len(new) == (9 if format == "int8" else 0)


@pytest.mark.parametrize("format", ROUNDED)
def test_switched_on_weights_lie_on_the_grid(format):
    network = student(format)
    set_rounding(network, True)
    first, layer = network.body[0].weight, network.body[3].weight
    assert all(len(channel.unique()) <= 255 for channel in first.flatten(1))
    if format == "int4":
        assert all(len(channel.unique()) <= 15 for channel in layer.flatten(1))
    assert not torch.equal(layer, network.body[3]._parameters["weight"])


@pytest.mark.parametrize("format", ROUNDED)
def test_a_simulation_can_be_undone(format):
    network = student(format)
    set_rounding(network, True)
    plain(network)
    assert torch.equal(network.eval()(images()).logits, student("fp32").eval()(images()).logits)
    assert not any(isinstance(module, RoundedLayer) for module in network.modules())
    assert network.state_dict().keys() == student("fp32").state_dict().keys()


def test_calibrated_ranges_are_those_of_the_images():
    network = student("int8").eval()
    calibrate(network, [images()])
    scale, zero = input_grids(network)["body.0"]
    low, high = images().min().item(), images().max().item()
    assert scale.item() == pytest.approx((high - low) / 255, rel=1e-3)
    assert zero.item() == round(-low / scale.item())


def test_a_copy_has_a_switch_and_ranges_of_its_own():
    network = student("int8").eval()
    calibrate(network, [images()])
    other = copy.deepcopy(network)
    before = network(images()).logits
    set_rounding(other, True)
    calibrate(other, [10 * images()])
    assert torch.equal(network(images()).logits, before)
    assert not torch.equal(other(images()).logits, before)
    assert input_grids(network)["body.0"][0] < input_grids(other)["body.0"][0]


@pytest.mark.parametrize("format", ROUNDED)
def test_training_learns_and_resumes_to_the_bit(format):
    def begin():
        network = student(format)
        return network, torch.optim.AdamW(network.parameters(), lr=1e-2)

    network, optimizer = begin()
    calibrate(network, [images()])
    set_rounding(network, True)
    losses = [step(network, optimizer, slice(50 * (i % 6), 50 * (i % 6) + 50)) for i in range(24)]
    saved = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
    losses += [step(network, optimizer, slice(50 * (i % 6), 50 * (i % 6) + 50)) for i in range(6)]
    assert losses[-1] < losses[0] - 0.5

    again, optimizer = begin()
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    set_rounding(again, True)
    assert [step(again, optimizer, slice(50 * i, 50 * i + 50)) for i in range(6)] == losses[24:]
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), network.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("format", ROUNDED)
def test_flat_parameters_and_schedule_free_averages_do_not_notice(format):
    network = student(format)
    flat = FlatParameters([list(network.parameters())])
    (whole,) = flat.groups[0]
    optimizer = schedulefree.AdamWScheduleFree([whole], lr=1e-2)
    optimizer.train()
    calibrate(network, [images()])
    set_rounding(network, True)
    observe(network, True)
    views = digit_views(300)
    losses = []
    for _ in range(30):
        flat.zero_grad()
        loss = nn.functional.cross_entropy(network(views.images).logits, views.labels)
        loss.backward()
        optimizer.step()
        update_ranges(network)
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    shipped = copy.deepcopy(network)
    for theirs, average in zip(
        shipped.parameters(), flat.unpack([averaged(optimizer, whole)], 0), strict=True
    ):
        theirs.data = average.clone()
    assert not torch.equal(shipped.head._parameters["weight"], network.head._parameters["weight"])
    assert shipped(views.images).logits.isfinite().all()


@pytest.mark.parametrize("format", ROUNDED)
def test_bf16_autocast_computes_nearly_the_same(format):
    network = student(format).eval()
    calibrate(network, [images()])
    set_rounding(network, True)
    expected = network(images()).logits
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images()).logits
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    found.float().sum().backward()
    assert network.body[0]._parameters["weight"].grad.isfinite().all()


@pytest.mark.parametrize("format", ROUNDED)
def test_a_compiled_student_trains_alike(format):
    def trained(compiled):
        network = student(format)
        calibrate(network, [images()])
        set_rounding(network, True)
        observe(network, True)
        run = torch.compile(network, backend="aot_eager") if compiled else network
        run(images()).logits.square().sum().backward()
        update_ranges(network)
        return network

    torch._dynamo.reset()
    left, right = trained(False), trained(True)
    for a, b in zip(left.parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    for a, b in zip(left.buffers(), right.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_attention_is_rounded_where_its_weights_are_read():
    torch.manual_seed(0)
    network = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    simulate(network, "int8")
    rows = torch.randn(2, 5, 16)
    calibrate(network, [rows])
    before = network(rows)
    set_rounding(network, True)
    with torch.no_grad():  # where PyTorch would take its fast path
        assert 0 < (network(rows) - before).abs().max() < 0.1
    assert set(input_grids(network)) == {"linear1", "linear2"}
    for training in (True, False):
        network.train(training)
        network(rows).sum().backward()
    assert network.self_attn._parameters["in_proj_weight"].grad.isfinite().all()


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_layers_may_be_called_with_named_inputs(format):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 4)

        def forward(self, rows):
            mixed, _ = self.attention(query=rows, key=rows, value=rows, need_weights=False)
            return self.head(input=mixed.mean(1))

    network, rows = Named(), torch.randn(2, 5, 16)
    simulate(network, format)
    calibrate(network, [rows])
    before = network(rows)
    set_rounding(network, True)
    assert 0 < (network(rows) - before).abs().max() < 1


def ranges(reduction: Reduction) -> list[torch.Tensor]:
    """Ranges after two steps; every rank reads its share of the rows."""
    network = student("int8").eval()
    for part in images(64).chunk(2):
        observe(network, True)
        network(part.chunk(reduction.size)[reduction.rank])
        update_ranges(network, reduction)
    return [torch.stack((scale, zero.float())) for scale, zero in input_grids(network).values()]


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(ranges(reduction_for(2)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_have_the_ranges_of_one(tmp_path):
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for left, right in zip(found, ranges(SingleProcess()), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-6)
