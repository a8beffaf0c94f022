"""Checkpoints of a training: a file of tensors and plain values, loaded without unpickling code.

The last two are kept, each with its SHA-256 at the end, so that a damaged one is noticed and the one before
it is used.
"""

import hashlib
import io
import time
from typing import Any

import torch

from tkd_search import storage
from tkd_search.distill.training.distiller import Distiller
from tkd_search.engine.run_dir.checkpoint_files import checkpoint_files

SECONDS_BETWEEN = 300.0
"""Seconds after which a training is saved also between two validations, within long epochs too; each
validation saves it."""

_DIGEST = hashlib.sha256().digest_size


class TrialCheckpoint:
    """The checkpoint of one training.

    Args:
        place: folder, here or on object storage, that holds ``checkpoint.pt`` and ``checkpoint-before.pt``.
        point: what is trained, as text. A checkpoint of another point is not read: after a search has moved
            to another machine, a trial's number may stand for another configuration than there.

    Attributes:
        damaged: names of the files that the last call of :meth:`exists` or :meth:`load` found damaged.
    """

    def __init__(self, place: str, point: str = "") -> None:
        self._point = point
        self._file, self._before = checkpoint_files(place)
        self.damaged: list[str] = []
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Return whether ``SECONDS_BETWEEN`` have passed since the last save, or else since the start."""
        return time.monotonic() - self._saved >= SECONDS_BETWEEN

    def exists(self) -> bool:
        """Return whether an undamaged checkpoint of this point is stored."""
        return self._read() is not None

    def load(self, distiller: Distiller) -> list[dict[str, Any]]:
        """Restore the training and return the results of its validated epochs; empty without a file.

        A damaged file is left out: the checkpoint before it is loaded, where there is one.
        """
        saved = self._read()
        if saved is None:
            return []
        distiller.load_state_dict(saved["distiller"])
        return list(saved["history"])

    def save(self, distiller: Distiller, history: list[dict[str, Any]]) -> None:
        """Store a checkpoint and keep the one before it: a kill at any moment leaves one of them.

        The training may be further than ``history``, which has only the validated epochs.
        """
        content = io.BytesIO()
        saved = {"point": self._point, "distiller": distiller.state_dict(), "history": history}
        torch.save(saved, content)
        content.write(hashlib.sha256(content.getbuffer()).digest())
        if storage.last_name(self._file) not in self.damaged:
            storage.move(self._file, self._before)
        storage.write_bytes(self._file, content.getvalue())
        self.damaged, self._saved = [], time.monotonic()

    def _read(self) -> dict[str, Any] | None:
        """Return the newest checkpoint of this point that is as it was written.

        A zip file ends before its SHA-256.
        """
        self.damaged = []
        for file in (self._file, self._before):
            content = storage.read_bytes(file)
            if content is None:
                continue
            if hashlib.sha256(memoryview(content)[:-_DIGEST]).digest() != content[-_DIGEST:]:
                self.damaged.append(storage.last_name(file))
                continue
            saved: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
            if saved["point"] == self._point:
                return saved
        return None
