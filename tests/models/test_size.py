"""The computed number of bytes is exactly the length of the written file."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from tests.models import nets
from tkd_search.models import build_student
from tkd_search.models.model_settings import StudentSettings
from tkd_search.models.size import _DTYPES, model_bytes, model_parameters, shipping_state, state_bytes
from tkd_search.models.weights import save_weights

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
TENSORS = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype), SHAPES, st.sampled_from(list(_DTYPES))
)


@settings(max_examples=100, deadline=None)
@given(state=st.dictionaries(NAMES.filter(lambda name: name != "__metadata__"), TENSORS, max_size=8))
def test_bytes_of_any_state_equal_the_length_of_the_file(state: dict[str, torch.Tensor]) -> None:
    assert state_bytes(state) == len(save(state))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "shufflenet_v2_x0_5"])
def test_bytes_of_a_model_equal_its_file_on_every_device(name: str, tmp_path: Path) -> None:
    settings = StudentSettings(name=name, width=0.1)
    made = build_student(settings, classes=10, channels=1, size=8)
    with torch.device("meta"):
        imagined = build_student(settings, classes=10, channels=1, size=8)
    save_weights(made.model, tmp_path / "model.safetensors")
    written = (tmp_path / "model.safetensors").stat().st_size
    assert model_bytes(made.model) == model_bytes(imagined.model) == written


def test_a_tied_tensor_is_stored_once() -> None:
    state = shipping_state(nets.Tied())
    assert sorted(state) == ["first.bias", "first.weight", "second.bias"]
    assert model_bytes(nets.Tied()) == len(save(state))


def test_memory_format_does_not_matter() -> None:
    plain = nets.tiny(5)
    assert model_bytes(plain) == model_bytes(nets.tiny(5).to(memory_format=torch.channels_last))
    save(shipping_state(plain.to(memory_format=torch.channels_last)))


def test_parameters_are_counted_without_buffers() -> None:
    assert model_parameters(nn.BatchNorm2d(7)) == 14
    assert model_parameters(nets.Tied()) == 4 * 4 + 2 * 4


def test_half_precision_takes_about_half_the_bytes() -> None:
    net = nets.tiny(10, width=64)
    assert model_bytes(net.half()) < 0.6 * model_bytes(nets.tiny(10, width=64))
