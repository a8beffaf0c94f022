"""Strided 1 × 1 convolutions with few channels: PyTorch's values and gradients, and no crash."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from tkd_search.models import build_student
from tkd_search.models.model_settings import StudentSettings
from tkd_search.models.pointwise import SlicedPointwise, slice_pointwise

TRAINING_STEP = """
import torch
from tkd_search.models.pointwise import slice_pointwise
conv = torch.nn.Conv2d(8, 16, 1, stride=2, bias=False)
model = torch.nn.Sequential(conv).to(memory_format=torch.channels_last)
slice_pointwise(model)
model(torch.randn(8, 8, 56, 56).contiguous(memory_format=torch.channels_last)).sum().backward()
"""


@pytest.mark.parametrize(("groups", "bias", "size"), [(1, True, 9), (2, False, 8)])
def test_values_and_gradients_equal_pytorchs(groups: int, bias: bool, size: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 1, stride=2, groups=groups, bias=bias).double()
    ours = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, groups=groups, bias=bias)).double()
    ours[0].load_state_dict(plain.state_dict())
    slice_pointwise(ours)
    assert type(ours[0]) is SlicedPointwise
    images = torch.randn(3, 4, size, size, dtype=torch.double)
    given = [images.clone().requires_grad_(), images.clone().requires_grad_()]
    made = [model(x) for model, x in zip((plain, ours), given, strict=True)]
    torch.testing.assert_close(*made)
    for output in made:
        output.square().sum().backward()
    torch.testing.assert_close(given[0].grad, given[1].grad)
    torch.testing.assert_close(plain.weight.grad, ours[0].weight.grad)


def test_narrow_shortcuts_do_not_crash_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINING_STEP], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_narrow_resnets_have_sliced_convolutions_and_wide_ones_do_not() -> None:
    def sliced(width: float) -> int:
        student = build_student(
            StudentSettings(name="resnet18", width=width, stem="original"), classes=4, channels=3, size=64
        )
        return sum(isinstance(module, SlicedPointwise) for module in student.modules())

    assert sliced(0.125) == 1
    assert sliced(1.0) == 0
