"""One root seed, named children: nothing in the package draws from a global random state."""

import hashlib


def child_seed(seed: int, *names: str | int, bits: int = 63) -> int:
    """A seed in [0, 2^bits) that depends on the root seed and a path of names, the same on every machine.

    Args:
        seed: the root.
        names: path of names.
        bits: size, 1 to 64; NumPy and Optuna want at most 32.
    """
    text = "/".join(str(part) for part in (seed, *names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> (64 - bits)
