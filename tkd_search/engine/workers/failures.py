"""Classifies a job's failure: by its configuration, its environment, a lost peer or lack of memory."""

import errno
import re

import torch
import torch.distributed as dist

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How safetensors reports an operating-system error: it raises no OSError."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, of the machine or of a GPU, also as the cause of another error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(cause):
            return True
        cause = cause.__cause__
    return False


def environment_failed(error: BaseException) -> bool:
    """Return whether other trials would fail alike: full disk, unreachable storage, missing file.

    A student is built before its trial starts, and all files that a trial opens belong to its search. So
    every operating-system error counts, also as the cause of another error, except lack of memory: another
    trial may need less.
    """
    cause: BaseException | None = error
    while cause is not None:
        match = _OS_ERROR.search(str(cause))
        if isinstance(cause, OSError) or match:
            number = int(match[1]) if match else getattr(cause, "errno", None)
            return number != errno.ENOMEM
        cause = cause.__cause__
    return False


def peer_lost(error: BaseException) -> bool:
    """Return whether a collective failed because another rank is gone; that rank's failure is the cause."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)
