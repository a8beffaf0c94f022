"""Properties of rounding: error at most half a step, idempotent, equivariant to scaling, zero exact."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tkd_search.distill.quantization.rounding import (
    along,
    input_grid,
    largest_integer,
    reach_of,
    restored_scale,
    round_input,
    round_weight,
    stored_scale,
    to_integers,
    weight_scales,
)

SEEDS = st.integers(0, 10_000)
BITS = st.sampled_from([4, 8])
SHAPES = st.sampled_from([((5, 3, 3, 3), 0), ((4, 1, 3, 3), 0), ((3, 6, 2, 2), 1), ((7, 40), 0)])


def drawn(seed, shape, spread=1.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, shape=SHAPES, spread=st.sampled_from([1e-6, 1e-2, 1.0, 1e3]))
def test_int8_rounds_every_weight_by_at_most_half_a_step(seed, shape, spread):
    weight = drawn(seed, shape[0], spread)
    scales = along(weight_scales(weight, 8, shape[1]), shape[1], weight.dim())
    assert ((round_weight(weight, 8, shape[1]) - weight).abs() <= scales * 0.5001).all()


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, shape=SHAPES)
def test_int4_errs_no_more_than_without_its_clip(seed, shape):
    weight, axis = drawn(seed, shape[0]), shape[1]
    unclipped = along(
        weight.abs().movedim(axis, 0).flatten(1).amax(1) / largest_integer(4), axis, weight.dim()
    )
    plain = (weight / unclipped).round() * unclipped
    others = [i for i in range(weight.dim()) if i != axis]
    error = (round_weight(weight, 4, axis) - weight).square().sum(others)
    assert (error <= (plain - weight).square().sum(others) * 1.0001 + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, shape=SHAPES, bits=BITS)
def test_rounding_is_idempotent_and_equals_its_integers(seed, shape, bits):
    weight, axis = drawn(seed, shape[0]), shape[1]
    rounded = round_weight(weight, bits, axis)
    torch.testing.assert_close(round_weight(rounded, bits, axis), rounded, rtol=1e-6, atol=0)
    integers, scales = to_integers(weight, bits, axis)
    assert integers.abs().max() <= largest_integer(bits)
    torch.testing.assert_close(integers * along(scales, axis, weight.dim()), rounded)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, shape=SHAPES, bits=BITS, power=st.integers(-8, 8))
def test_scaled_and_mirrored_weights_have_scaled_and_mirrored_roundings(seed, shape, bits, power):
    weight, axis = drawn(seed, shape[0]), shape[1]
    factor = -(2.0**power)
    assert torch.equal(round_weight(weight * factor, bits, axis), round_weight(weight, bits, axis) * factor)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, bits=BITS)
def test_channels_are_rounded_independently(seed, bits):
    weight = drawn(seed, (6, 5, 3, 3))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(round_weight(weight[order], bits, 0), round_weight(weight, bits, 0)[order])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_channel_of_zeros_stays_zero(bits):
    assert torch.equal(round_weight(torch.zeros(3, 4), bits, 0), torch.zeros(3, 4))


@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_of_weights_pass_unchanged(bits):
    weight = drawn(0, (4, 50)).requires_grad_()
    factor = drawn(1, (4, 50))
    (round_weight(weight, bits, 0) * factor).sum().backward()
    assert torch.equal(weight.grad, factor)


@settings(max_examples=40, deadline=None)
@given(below=st.floats(0, 100), above=st.floats(0, 100), seed=SEEDS)
def test_inputs_within_the_range_err_by_at_most_a_step_and_zero_is_exact(below, above, seed):
    scale, zero = input_grid(torch.tensor([below, above]))
    values = torch.rand(200, generator=torch.Generator().manual_seed(seed)) * (below + above) - below
    # The zero point is an integer: the grid is off by at most half a step at either end.
    assert ((round_input(values, scale, zero) - values).abs() <= 1.01 * scale + 1e-9).all()
    assert round_input(torch.zeros(1), scale, zero) == 0
    assert 0 <= zero <= 255


def test_the_grid_is_the_one_that_is_stored():
    scale, _ = input_grid(torch.rand(50, 2) * 10)
    assert torch.equal(restored_scale(stored_scale(scale)), scale)


@given(power=st.floats(-21, 7))
def test_stored_scales_keep_eleven_bits(power):
    scale = torch.tensor(2.0**power)
    assert abs(restored_scale(stored_scale(scale)) / scale - 1) <= 2**-11


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_reach_is_how_far_values_go_below_and_above_zero(memory):
    values = drawn(0, (2, 3, 4, 5)).contiguous(memory_format=memory)
    assert reach_of(values).tolist() == [-values.min(), values.max()]
    assert reach_of(values.abs() + 1).tolist() == [0, values.abs().max() + 1]
