"""Generated JPEGs of 256 × 256 pixels in class folders, and the same files in one parquet file."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIDE = 256
_AT_ONCE = 500


def jpeg(number: int) -> bytes:
    """Return the file of one image: smooth colours with noise, about 20 kB."""
    random = np.random.default_rng(number)
    colours = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(colours.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = smooth + random.integers(-12, 13, (SIDE, SIDE, 1), dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def class_count(count: int) -> int:
    """Return the number of classes of so many images: 1,000, or fewer where a class would have under five."""
    return min(1000, count // 5)


def write_folders(root: Path, count: int) -> None:
    """Write ``count`` images to ``root/<class>/<number>.jpg`` with all cores, unless they are there."""
    if root.exists():
        return
    partial_root = root.with_name(f"{root.name}.part")
    for label in range(class_count(count)):
        (partial_root / f"{label:04d}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(_write, partial_root, count), range(count), chunksize=_AT_ONCE))
    partial_root.rename(root)


def write_parquet(file: Path, folders: Path, count: int) -> None:
    """Write the images of :func:`write_folders` as encoded bytes with labels, unless the file is there."""
    if file.exists():
        return
    part = file.with_suffix(".part")
    schema = pa.schema({"image": pa.binary(), "label": pa.int64()})
    with pq.ParquetWriter(part, schema) as writer:
        for numbers in _chunks(count):
            images = [_place(folders, count, number).read_bytes() for number in numbers]
            labels = [number % class_count(count) for number in numbers]
            writer.write_table(pa.table({"image": images, "label": labels}, schema=schema))
    os.replace(part, file)


def _chunks(count: int) -> Iterator[range]:
    yield from (range(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE))


def _place(root: Path, count: int, number: int) -> Path:
    return root / f"{number % class_count(count):04d}" / f"{number:07d}.jpg"


def _write(root: Path, count: int, number: int) -> None:
    _place(root, count, number).write_bytes(jpeg(number))
