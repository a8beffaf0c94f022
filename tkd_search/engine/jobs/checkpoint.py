"""Checkpoints of a training: a file of tensors and plain values, loaded without unpickling code."""

import io
import time
from typing import Any

import torch

from tkd_search import storage
from tkd_search.distill.training.distiller import Distiller

SECONDS_BETWEEN = 300.0
"""Seconds after which a training is saved also between two validations, within long epochs too; each
validation saves it."""


class TrialCheckpoint:
    """The checkpoint of one training.

    Args:
        place: folder, here or on object storage, that holds ``checkpoint.pt``.
    """

    def __init__(self, place: str) -> None:
        self._file = storage.below(place, "checkpoint.pt")
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Return whether ``SECONDS_BETWEEN`` have passed since the last save, or else since the start."""
        return time.monotonic() - self._saved >= SECONDS_BETWEEN

    def exists(self) -> bool:
        """Return whether a checkpoint is stored."""
        return storage.read_bytes(self._file) is not None

    def load(self, distiller: Distiller) -> list[dict[str, Any]]:
        """Restore the training and return the results of its validated epochs; empty without a file."""
        content = storage.read_bytes(self._file)
        if content is None:
            return []
        saved = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        distiller.load_state_dict(saved["distiller"])
        return list(saved["history"])

    def save(self, distiller: Distiller, history: list[dict[str, Any]]) -> None:
        """Replace the checkpoint in one step: a kill leaves the old file or the new one.

        The training may be further than ``history``, which has only the validated epochs.
        """
        content = io.BytesIO()
        torch.save({"distiller": distiller.state_dict(), "history": history}, content)
        storage.write_bytes(self._file, content.getvalue())
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete the file, after the end of the training."""
        storage.delete(self._file)
