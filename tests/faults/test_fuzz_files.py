"""Damaged images and tables: each is decoded, or refused with the file's name."""

import contextlib
import io
import os
import random
import resource
import string
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.data import writers
from tkd_search.data import DataSettings, decode, load_data
from tkd_search.data.sources.image_names import IMAGE_SUFFIXES
from tkd_search.errors import UserError

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
SECONDS = 200 if os.environ.get("TKD_CI_ALL") else 12
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "1", "LA")


@pytest.fixture(autouse=True)
def limits(monkeypatch, tmp_path):
    """Limit the memory, so that an image that fills it is an error here; use an own cache."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), before[1]))
    monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cache"))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return bytes that were cut off, or of which some were changed, removed or repeated."""
    if draw.random() < 0.25:
        return content[: draw.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 5, 20])):
        at = draw.randrange(min(len(changed), draw.choice([32, 100, len(changed)])))
        length = draw.randrange(1, 9)
        new = draw.choice([b"", bytes(changed[at : at + length]) * 2, draw.randbytes(length)])
        changed[at : at + length] = new
        changed = changed or bytearray(b"x")
    return bytes(changed)


def refusal(read: Callable[[], object], kind: type[Exception]) -> str:
    """Return the message with which something is refused, '' where it is read; another error is raised."""
    try:
        read()
    except kind as error:
        return str(error)
    return ""


def originals(suffix: str) -> list[bytes]:
    """Return images of one suffix without a dark pixel, in every mode that its format takes."""
    pixels = np.random.default_rng(0).integers(128, 256, (24, 24, 3), dtype=np.uint8)
    found = []
    for mode in MODES:
        buffer = io.BytesIO()
        try:
            Image.fromarray(pixels).convert(mode).save(buffer, Image.registered_extensions()[suffix])
        except (OSError, KeyError, ValueError):
            continue
        found.append(buffer.getvalue())
    return found


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_a_damaged_image_is_decoded_or_refused_by_name(tmp_path, suffix):
    draw, path = random.Random(suffix), tmp_path / f"image{suffix}"
    images = originals(suffix)
    assert images
    end = time.monotonic() + SECONDS / len(IMAGE_SUFFIXES)
    warnings.simplefilter("ignore")  # Pillow's, of strange headers
    while time.monotonic() < end:
        path.write_bytes(mutated(draw.choice(images), draw))
        for read in (
            lambda: decode.decode(str(path), 8, 3),
            lambda: decode.read_header(str(path)),
            lambda: decode.brightest_deep_pixel(str(path)),
        ):
            refused = refusal(read, decode.DamagedImageError)
            assert not refused or (refused.startswith(f"{path}: ") and refused != f"{path}: ")


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_an_image_that_is_cut_off_is_never_black(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    for content in originals(suffix):
        for share in (0.3, 0.6, 0.9):
            path.write_bytes(content[: int(share * len(content))])
            with contextlib.suppress(decode.DamagedImageError):
                assert decode.decode(str(path), 24, 3).max() > 0


def tables(folder) -> dict[str, bytes]:
    """Return a CSV file, a parquet file of paths and one of encoded images, by suffix and kind."""
    names = [f"images/{i:03d}.png" for i in range(12)]
    writers.write_images(folder / "images", 12)
    plain = pd.DataFrame({"image": names, "label": ["cat", "dog", "eel"] * 4, "split": ["train"] * 12})
    encoded = plain.assign(image=[(folder / name).read_bytes() for name in names])
    csv = plain.to_csv(index=False).encode()
    return {".csv": csv, ".paths.parquet": plain.to_parquet(), ".parquet": encoded.to_parquet()}


@pytest.mark.parametrize("kind", [".csv", ".paths.parquet", ".parquet"])
def test_a_damaged_table_is_read_or_refused(tmp_path, kind):
    draw, path = random.Random(kind), tmp_path / f"table{kind}"
    whole = tables(tmp_path)[kind]
    end = time.monotonic() + SECONDS / 3
    while time.monotonic() < end:
        content = mutated(whole, draw)
        if kind == ".csv" and draw.random() < 0.5:  # damage that stays text
            text = list(whole.decode())
            for _ in range(draw.choice([1, 3, 10])):
                text[draw.randrange(len(text))] = draw.choice(string.printable + "\0;é\ufeff")
            content = "".join(text).encode()
        path.write_bytes(content)
        budget = draw.choice([4096, 16])
        settings = DataSettings(name="table", path=str(path), size=12, memory_budget_mb=budget)
        refused = refusal(lambda settings=settings: load_data(settings), UserError)
        assert not refused or str(tmp_path) in refused or refused.startswith("data.")
