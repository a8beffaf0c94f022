"""A training's last epoch on disk: tensors and plain values only, read without unpickling code."""

import shutil
from pathlib import Path
from typing import Any

import torch

from tkd_search.distill.trainer import Distiller


class TrialCheckpoint:
    """The checkpoint folder of one training.

    Args:
        folder: holds ``checkpoint.pt``; created on the first save.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "checkpoint.pt"

    def load(self, distiller: Distiller) -> list[dict[str, Any]]:
        """Put the trainer where it was; the results of its epochs so far, empty where there is none."""
        if not self._file.exists():
            return []
        saved = torch.load(self._file, weights_only=True, map_location="cpu")
        distiller.load_state_dict(saved["distiller"])
        return list(saved["history"])

    def save(self, distiller: Distiller, history: list[dict[str, Any]]) -> None:
        """Replace the checkpoint in one step: a kill leaves the old one or the new one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".tmp")
        torch.save({"distiller": distiller.state_dict(), "history": history}, temporary)
        temporary.replace(self._file)

    def remove(self) -> None:
        """Forget it (the training is over)."""
        self._file.unlink(missing_ok=True)
        if self._folder.exists() and not any(self._folder.iterdir()):
            shutil.rmtree(self._folder)
