"""Depthwise convolutions on small maps: PyTorch's values and gradients; other convolutions are unchanged."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tkd_search.models import build_student
from tkd_search.models.depthwise import SmallMapDepthwise, depthwise_on_small_map, speed_up_depthwise
from tkd_search.models.model_settings import StudentSettings


@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 2), (3, 2), (4, 4)])
def test_values_and_gradients_equal_those_of_a_convolution(k: int, shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, *shape, generator=draw, dtype=torch.float64, requires_grad=True)
    w = torch.randn(5, 1, k, k, generator=draw, dtype=torch.float64, requires_grad=True)
    ours, expected = depthwise_on_small_map(x, w), F.conv2d(x, w, padding=k // 2, groups=5)
    torch.testing.assert_close(ours, expected)
    upstream = torch.randn(ours.shape, generator=draw, dtype=torch.float64)
    ours, expected = (torch.autograd.grad(output, (x, w), upstream) for output in (ours, expected))
    torch.testing.assert_close(ours, expected)


def test_only_depthwise_convolutions_that_keep_their_size_are_replaced() -> None:
    quick = [nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 5, padding=2, groups=6, bias=False)]
    others = [
        nn.Conv2d(6, 6, 3, padding=1),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, stride=2),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Conv2d(6, 12, 3, padding=1, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, padding_mode="reflect"),
    ]
    model = nn.ModuleList([*quick, *others])
    speed_up_depthwise(model)
    assert [type(m) is SmallMapDepthwise for m in model] == [True] * len(quick) + [False] * len(others)


def test_a_student_gives_the_results_of_plain_convolutions() -> None:
    made = []
    for quick in (True, False):
        torch.manual_seed(0)
        student = build_student(StudentSettings(width=0.25), classes=10, channels=1, size=8)
        changed = [m for m in student.modules() if type(m) is SmallMapDepthwise]
        assert changed
        for module in changed:
            module.__class__ = SmallMapDepthwise if quick else nn.Conv2d
        torch.manual_seed(1)
        x = torch.randn(16, 1, 8, 8)
        student.train()
        loss = student(x).logits.square().sum()
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])
        with torch.no_grad():
            made.append((loss.detach(), gradients, student.eval()(x).logits, student.state_dict()))
    torch.testing.assert_close(made[0][:3], made[1][:3], rtol=1e-3, atol=1e-4)
    assert made[0][3].keys() == made[1][3].keys()


def test_a_bias_is_added() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    x = torch.randn(2, 4, 2, 2)
    expected = conv(x)
    speed_up_depthwise(conv)
    torch.testing.assert_close(conv.train()(x), expected)
