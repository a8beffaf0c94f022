"""The 1,797 handwritten digits in scikit-learn: 8 × 8 pixels, 10 classes, no download."""

import numpy as np
import torch

from tkd_search.data.bundle import Split
from tkd_search.data.sources.raw_data import RawData


def read_digits() -> RawData:
    """Return all digits as one training part, values 0 to 16 scaled to 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return RawData(
        train=Split(torch.from_numpy(pixels).unsqueeze(1), labels),
        classes=tuple(str(name) for name in digits.target_names),
    )
