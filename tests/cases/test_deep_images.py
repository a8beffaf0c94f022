"""Pixels of more than 8 bits keep their grey levels or are refused (case 8; Pillow#5991, #3011)."""

import numpy as np
import pytest
import torch
from PIL import Image

from tkd_search.data import DataSettings, load_data
from tkd_search.errors import UserError


def write(folder, brightest, kind, suffix):
    """Write two classes of five images whose brightest pixel is given."""
    for number in range(10):
        place = folder / "train" / ("cat" if number < 5 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.linspace(0, brightest, 144).astype(kind).reshape(12, 12)
        Image.fromarray(np.roll(pixels, number)).save(place / f"{number}{suffix}")
    return DataSettings(name="imagefolder", path=str(folder))


@pytest.mark.parametrize(
    ("brightest", "kind", "suffix"),
    [
        (65535, np.uint16, ".png"),
        (65535, np.uint16, ".tif"),
        (255, np.int32, ".tif"),
        (65535, np.int32, ".tif"),
    ],
)
def test_their_levels_are_kept(tmp_path, brightest, kind, suffix):
    data = load_data(write(tmp_path, brightest, kind, suffix))
    images = data.train.images[torch.tensor([0])]
    assert images.min() == 0
    assert images.max() == 255
    assert len(images.unique()) > 100


@pytest.mark.parametrize(
    ("brightest", "kind", "suffix"),
    [
        (4095, np.uint16, ".png"),
        (1023, np.uint16, ".tif"),
        (255, np.uint16, ".png"),
        (4095, np.int32, ".tif"),
    ],
)
def test_fewer_bits_in_16_are_refused_by_name(tmp_path, brightest, kind, suffix):
    with pytest.raises(UserError) as caught:
        load_data(write(tmp_path, brightest, kind, suffix))
    assert str(brightest) in caught.value.found
    assert "16" in caught.value.hint
