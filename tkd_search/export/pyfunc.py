"""Loads a student as MLflow's ``python_function`` (``mlflow.pyfunc.load_model``), without importing MLflow.

Every registered version names this module in its ``MLmodel``; if the module moves, those versions break.
"""

import os
import warnings
from pathlib import Path

import numpy as np
import torch

from tkd_search.export.load_student import network, student_folder
from tkd_search.export.student_description import read_description
from tkd_search.export.transform import Transform

_BATCH = 256


class StudentModel:
    """Predicts class probabilities of images through MLflow's ``predict``.

    Args:
        path: a student's folder, loaded and checked as :func:`tkd_search.load` does.
        trust: as there.
    """

    def __init__(self, path: str | Path, *, trust: bool = False) -> None:
        folder = student_folder(path)
        self._description = read_description(folder)
        self._network = network(folder, self._description, trust=trust)
        self._transform = Transform(self._description.preprocessing)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return the softmax of the logits, float32 [B, c], classes in the order of ``student.json``.

        Args:
            images: uint8 [B, H, W, C] of the student's size and channels; they are normalised here.

        Raises:
            UserError: images of another shape or kind.
        """
        _warn_of_fractions(images)
        made = np.empty((len(images), len(self._description.classes)), np.float32)
        for start in range(0, len(images), _BATCH):  # in batches, so that memory stays small
            part = slice(start, start + _BATCH)
            with torch.inference_mode():
                made[part] = self._network(self._transform.batch(images[part])).softmax(1).numpy()
        return made


def _warn_of_fractions(images: np.ndarray) -> None:
    """Warn of fractions: MLflow casts JSON to uint8, so images in [0, 1] would become black."""
    if len(images) and np.max(images) <= 1:
        warnings.warn("no pixel is above 1, but a student wants values from 0 to 255", stacklevel=2)


def _load_pyfunc(path: str) -> StudentModel:
    """Load a student; MLflow calls this function by name.

    TKD_TRUST=1 in the environment is ``trust``. A model's own settings in MLflow must not decide it.
    """
    return StudentModel(path, trust=os.environ.get("TKD_TRUST") == "1")
