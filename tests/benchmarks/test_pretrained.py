"""Tensors of the package get timm's names."""

import pytest
import torch

from benchmarks.pretrained import by_order


def test_tensors_are_named_by_their_order() -> None:
    like = {"conv_stem.weight": torch.empty(4, 3), "bn1.bias": torch.empty(4)}
    found = by_order({"_conv_stem.weight": torch.ones(4, 3), "_bn0.bias": torch.zeros(4)}, like)
    assert list(found) == list(like)
    assert found["conv_stem.weight"].eq(1).all()


@pytest.mark.parametrize("tensors", [{"a": torch.ones(3, 4), "b": torch.ones(4)}, {"a": torch.ones(4, 3)}])
def test_another_network_is_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"shape|shorter"):
        by_order(tensors, {"conv_stem.weight": torch.empty(4, 3), "bn1.bias": torch.empty(4)})
