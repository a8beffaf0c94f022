"""Autocast precision of forward passes."""

import torch

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which networks compute in ``bf16`` or ``fp16``; ``fp32`` changes nothing."""
    kind = _TYPES.get(precision)
    return torch.autocast(device.type, kind, enabled=kind is not None)
