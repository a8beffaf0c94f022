"""The checkpoint files of a training, and their removal once nothing can resume from them."""

import contextlib

from tkd_search import storage

CHECKPOINT_PATTERNS = ("checkpoint*", ".checkpoint*")
"""Names of checkpoints, also of those that are being written."""


def checkpoint_files(place: str) -> tuple[str, str]:
    """Return the last checkpoint and the one before it of the training kept at ``place``, a path or URI."""
    return storage.below(place, "checkpoint.pt"), storage.below(place, "checkpoint-before.pt")


def remove_checkpoints(place: str) -> None:
    """Delete the checkpoints of an ended training; ``runs clean`` removes what cannot be deleted now.

    A worker that learns late of the trial's end may still write one.
    """
    with contextlib.suppress(OSError):
        for file in checkpoint_files(place):
            storage.delete(file)
