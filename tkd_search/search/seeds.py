"""One root seed, named children: no part of a search shares a random stream with another by accident."""

import hashlib


def child_seed(root: int, *names: object) -> int:
    """A seed in [0, 2³¹) that depends on the root and on every name, the same on every machine."""
    text = "/".join([str(root), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
