"""The file's bytes are known from shapes, and loading it gives the network that was simulated."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.formats.nets import FAMILIES, OWN, PLAIN, built, disturbed, family, images, own, simulated
from tkd_search.distill.quantization.simulation import calibrate, set_rounding, simulate
from tkd_search.formats import FORMATS, pack, save, shipped_bytes, unpack
from tkd_search.formats.folding import fold_batchnorm
from tkd_search.formats.packing import pack_nibbles, unpack_nibbles
from tkd_search.models import model_bytes

NAMES = [*FAMILIES, *OWN]


def network_of(name):
    return family(name) if name in FAMILIES else own(name)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_the_length_of_the_file_and_loading_computes_what_was_simulated(name, format, tmp_path):
    network = network_of(name)
    student = simulated(network, format, images())
    file = tmp_path / "model.safetensors"
    assert save(student, format, file) == file.stat().st_size == shipped_bytes(network, format)
    assert shipped_bytes(student, format) == shipped_bytes(fold_batchnorm(network), format)
    loaded = unpack(load_file(file), network, format)
    with torch.no_grad():
        expected, found = student(images(seed=1)), loaded(images(seed=1))
        unrounded = network(images(seed=1))
    if format == "int8":
        # Scales are stored in fp16: a few inputs are rounded to the next integer, which spreads over layers.
        # Two independent roundings differ by √2 times the error of one.
        assert (found - expected).abs().mean() <= 1.5 * (unrounded - expected).abs().mean()
    else:
        assert (found - expected).abs().mean() < 0.02 * unrounded.std(0).mean()


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from([PLAIN, "alexnet", "mobilenet_v2", "mobilenet_v3_small", "resnet18", "vgg11_bn"]),
    width=st.floats(0.05, 0.3),
    format=st.sampled_from(FORMATS),
)
def test_bytes_need_no_weights(name, width, format, tmp_path_factory):
    network = built(name, width)
    if format == "int8":
        simulate(network, format)
    file = tmp_path_factory.mktemp("file") / "model.safetensors"
    assert save(network, format, file) == shipped_bytes(built(name, width, "meta"), format)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "vit_b_16"])
def test_smaller_formats_are_smaller(name):
    network = network_of(name)
    sizes = [shipped_bytes(network, format) for format in FORMATS]
    assert model_bytes(network) > sizes[0] > 1.9 * sizes[1]
    assert sizes[1] > 1.5 * sizes[2]
    assert sizes[2] > 1.2 * sizes[3]


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_holds_one_tensor_per_type_and_no_statistics(format):
    tensors = pack(simulated(family("mobilenet_v2"), format, images()), format)
    assert set(tensors) == {"fp32": {"v"}, "fp16": {"v"}, "int8": {"v", "q"}, "int4": {"v", "q", "p"}}[format]
    assert tensors["v"].dtype == (torch.float32 if format == "fp32" else torch.float16)


@pytest.mark.parametrize("format", FORMATS)
def test_a_loaded_network_packs_to_the_same_file(format):
    network = family("mobilenet_v3_small")
    tensors = pack(simulated(network, format, images()), format)
    again = pack(unpack(tensors, network, format), format)
    assert tensors.keys() == again.keys()
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)


def test_ranges_of_training_are_the_files():
    network = disturbed(built(PLAIN, 1.0))
    simulate(network, "int8")
    calibrate(network, [images()])
    narrow = pack(network, "int8")
    calibrate(network, [10 * images()])
    wide = pack(network, "int8")
    assert torch.equal(narrow["q"], wide["q"])
    assert not torch.equal(narrow["v"], wide["v"])


def test_int8_without_ranges_is_refused():
    with pytest.raises(ValueError, match=r"features\.0: int8 needs the range of its inputs"):
        pack(family(PLAIN), "int8")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_no_file_can_hold_are_refused(format, value):
    network = simulated(family(PLAIN), format, images())
    network.classifier._parameters["weight"].data[0, 0] = value
    with pytest.raises(ValueError, match=r"classifier\.weight: a value that is not finite"):
        pack(network, format)


def test_values_beyond_fp16_are_refused():
    network = simulated(family(PLAIN), "fp16", images())
    network.classifier.bias.data[0] = 1e5
    with pytest.raises(ValueError, match=r"classifier\.bias: .* beyond the range of torch\.float16"):
        pack(network, "fp16")
    assert pack(network, "fp32")["v"].max() == 1e5


@pytest.mark.parametrize(("given", "built_as"), [(1.0, "wider"), (1.0, "narrower")])
def test_a_file_of_another_architecture_is_refused(given, built_as):
    from tkd_search.models.plain import plain_cnn

    tensors = pack(plain_cnn(10), "fp16")
    other = plain_cnn(10, widths=(16, 32, 80) if built_as == "wider" else (16, 32, 48))
    with pytest.raises(ValueError, match="fewer values" if built_as == "wider" else "does not need"):
        unpack(tensors, other, "fp16")


def test_a_file_of_another_format_is_refused():
    with pytest.raises(ValueError, match="'p' holds fewer values"):
        unpack(pack(simulated(family(PLAIN), "int8", images()), "int8"), family(PLAIN), "int4")


def test_buffers_that_inference_reads_ship_in_their_own_type():
    network = own("Tied")
    tensors = pack(network, "fp16")
    assert tensors["int64"].tolist() == [2, 0, 1]
    assert "scratch" not in tensors
    other = own("Tied")
    other.order.copy_(torch.tensor([0, 1, 2]))
    assert unpack(tensors, other, "fp16").order.tolist() == [2, 0, 1]
    assert tensors["v"].numel() == 81 + 4 * 3 + 3 * 10 + 10  # the tied weight once; two scales and shifts


def test_a_plain_network_can_be_loaded_on_a_rounded_one():
    network = simulated(family(PLAIN), "int8", images())
    loaded = unpack(pack(network, "fp32"), network, "fp32")
    set_rounding(network, False)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images()), network(images()))


@settings(deadline=None)
@given(st.lists(st.integers(-8, 7), max_size=33))
def test_nibbles_come_back(values):
    integers = torch.tensor(values, dtype=torch.int8)
    packed = pack_nibbles(integers)
    assert len(packed) == math.ceil(len(values) / 2)
    assert unpack_nibbles(packed, len(values)).tolist() == values
