"""Kubernetes' way of writing amounts."""

_SUFFIXES = {
    "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip


def parse_quantity(text: str) -> float:
    """The number that a Kubernetes quantity stands for: ``"500m"`` → 0.5, ``"2Gi"`` → 2147483648.

    Raises:
        ValueError: where it is no quantity.
    """
    digits = text.rstrip("mkKMGTi")
    suffix = text[len(digits) :]
    if suffix not in _SUFFIXES:
        raise ValueError(f"{text!r} is no Kubernetes quantity")
    return float(digits) * _SUFFIXES[suffix]
