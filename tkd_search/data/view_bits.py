"""Random bits of views, as functions of integers: equal on every machine, and for any order of images."""

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number: splitmix64's increment
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def splitmix64(number: Tensor) -> Tensor:
    """Apply splitmix64's finaliser to int64 [B]: neighbours become uncorrelated (Steele et al. 2014)."""
    number = number + _GOLDEN
    number = (number ^ _shifted(number, 30)) * _MIX_1
    number = (number ^ _shifted(number, 27)) * _MIX_2
    return number ^ _shifted(number, 31)


def uniform(bits: Tensor, draw: int) -> Tensor:
    """Return the ``draw``-th number in [0, 1) of each of the streams ``bits`` int64 [B]: float64 [B]."""
    return _shifted(splitmix64(bits + draw), 11).to(torch.float64) / 2**53


def _shifted(number: Tensor, bits: int) -> Tensor:
    """Shift int64 right logically (torch's ``>>`` is arithmetic)."""
    return (number >> bits) & ((1 << (64 - bits)) - 1)
