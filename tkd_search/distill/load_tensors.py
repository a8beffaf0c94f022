"""Loads tensors into a network whatever versions its modules have."""

from collections.abc import Mapping

from torch import Tensor, nn


def load_tensors(module: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Load tensors by name, in place, as those of the module's own version.

    Files hold no versions, and MNASNet refuses a state dict without one.

    Raises:
        RuntimeError: names (with ``strict``) or shapes differ.
    """
    named = module.state_dict()  # an empty dictionary keeps the versions
    named.clear()
    named.update(state)
    module.load_state_dict(named, strict=strict)
