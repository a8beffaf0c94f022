"""Generators of named random streams."""

import torch

from tkd_search.seeds import child_seed


def child_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded with ``child_seed(seed, *names)``."""
    return torch.Generator().manual_seed(child_seed(seed, *names))
