"""Seeds and random generators derived from one root seed.

Nothing in the package draws from a global random state. Torch is imported on first use.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def child_seed(seed: int, *names: str | int, bits: int = 63) -> int:
    """Return a seed in [0, 2^bits) derived from a root seed and a path of names, equal on every machine.

    Args:
        seed: the root seed.
        names: the path of names.
        bits: size of the seed, 1 to 64; NumPy and Optuna take at most 32.
    """
    text = "/".join(str(part) for part in (seed, *names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> (64 - bits)


def child_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator seeded with ``child_seed(seed, *names)``."""
    import torch

    return torch.Generator().manual_seed(child_seed(seed, *names))
