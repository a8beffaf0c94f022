"""A training's last epoch in a file: tensors and plain values only, read without unpickling code."""

import io
import time
from typing import Any

import torch

from tkd_search import storage
from tkd_search.distill.training.distiller import Distiller

SECONDS_BETWEEN = 300.0
"""Training that a kill may cost where validations, each of which keeps its epoch, are further apart."""


class TrialCheckpoint:
    """The checkpoint of one training.

    Args:
        place: folder, here or on object storage, that holds ``checkpoint.pt``.
    """

    def __init__(self, place: str) -> None:
        self._file = storage.below(place, "checkpoint.pt")
        self._kept = time.monotonic()

    def due(self) -> bool:
        """Whether there is much to lose since the last one (or since the training began or went on)."""
        return time.monotonic() - self._kept >= SECONDS_BETWEEN

    def load(self, distiller: Distiller) -> list[dict[str, Any]]:
        """Put the trainer where it was; the results of its validated epochs, empty where there is none."""
        content = storage.read_bytes(self._file)
        if content is None:
            return []
        saved = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        distiller.load_state_dict(saved["distiller"])
        return list(saved["history"])

    def save(self, distiller: Distiller, history: list[dict[str, Any]]) -> None:
        """Replace the checkpoint in one step: a kill leaves the old one or the new one.

        The trainer may be further than ``history``, which has the epochs that were validated.
        """
        content = io.BytesIO()
        torch.save({"distiller": distiller.state_dict(), "history": history}, content)
        storage.write_bytes(self._file, content.getvalue())
        self._kept = time.monotonic()

    def remove(self) -> None:
        """Forget it (the training is over)."""
        storage.delete(self._file)
