"""One root seed, named children: nothing in the package draws from the global random state."""

import hashlib

import torch


def child_seed(seed: int, *names: str | int) -> int:
    """A seed in [0, 2⁶³) that depends on the root seed and a path of names, and on nothing else."""
    text = "/".join(str(part) for part in (seed, *names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def child_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator seeded with ``child_seed(seed, *names)``."""
    return torch.Generator().manual_seed(child_seed(seed, *names))
