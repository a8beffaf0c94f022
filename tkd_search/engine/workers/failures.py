"""Whose failure it is: the trial's own, or that of the machine and the storage it ran on."""

import errno
import re

import torch.distributed as dist

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How safetensors, which raises no OSError, tells of one."""


def environment_failed(error: BaseException) -> bool:
    """Whether other trials would meet the same: a full disk, a storage out of reach, a file that has gone.

    A student is built before its trial starts, and all files that a trial opens are its search's: so any
    error of the operating system counts, also as the cause of another, but not memory: another may need less.
    """
    cause: BaseException | None = error
    while cause is not None:
        told = _OS_ERROR.search(str(cause))
        if isinstance(cause, OSError) or told:
            number = int(told[1]) if told else getattr(cause, "errno", None)
            return number != errno.ENOMEM
        cause = cause.__cause__
    return False


def peer_lost(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone: that one's failure, told by its own end."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)
