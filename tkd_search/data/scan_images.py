"""Decode many image files once: finds broken ones, hashes pixels, and keeps the images where they fit."""

import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tkd_search.data import decode
from tkd_search.errors import UserError, printable
from tkd_search.storage.remote_folders import cached_folder

IMAGES_PER_PROCESS = 4000
"""Least number of images for which another decoding process saves time."""

MOST_BROKEN = 0.01
"""Largest share of the images that may be left out."""

_THREADS, _NAMED = 4, 10


@dataclass(frozen=True)
class ScannedImages:
    """Result of :func:`scan_images` for n files.

    ``images`` are uint8 [n, C, size, size] or None; ``content`` are hashes of pixels, int64 [n]; ``broken``
    maps the position of a file that cannot be decoded to 'path: reason'; its image is undefined.
    """

    images: Tensor | None
    content: Tensor
    broken: dict[int, str]


def scan_images(paths: Sequence[str], size: int, channels: int, *, keep: bool) -> ScannedImages:
    """Decode every file once; several processes decode many files.

    Args:
        paths: image files.
        size: side of the square images in pixels.
        channels: planes C.
        keep: whether to return the images.

    Raises:
        RuntimeError: a decoding process failed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(cores, len(paths) // IMAGES_PER_PROCESS)
    shape = (len(paths), channels, size, size)
    with tempfile.TemporaryDirectory(prefix="tkd-decode-") as folder:
        if processes < 2:
            rows = np.empty(shape, np.uint8) if keep else None
            parts = _in_parts(paths, _THREADS, partial(_scan_here, rows, size, channels))
        else:
            file = os.path.join(folder, "images.npy") if keep else None
            if file is not None:
                np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape).flush()
            parts = _in_parts(paths, processes, partial(_scan_in_process, file, size, channels))
            rows = np.load(file) if file is not None else None
    broken = {start + at: why for start, part in parts.items() for at, why in part.broken.items()}
    content = torch.tensor([one for part in parts.values() for one in part.content], dtype=torch.int64)
    return ScannedImages(None if rows is None else torch.from_numpy(rows), content, broken)


def scan_once(paths: Sequence[str], size: int, channels: int) -> ScannedImages:
    """Scan files without keeping images, and keep the result in this machine's cache.

    A later call with files of the same names, sizes and times reads it, so that a search that goes on does
    not decode all its images again. Where the cache cannot be written, every call scans.
    """
    state = hashlib.blake2b(f"{size}:{channels}".encode(), digest_size=16)
    for path in paths:
        with contextlib.suppress(OSError):  # the scan finds that it is missing
            file = os.stat(path)
            path = f"{os.path.abspath(path)}:{file.st_size}:{file.st_mtime_ns}"
        state.update(f"{path};".encode(errors="surrogateescape"))

    def fill(folder: Path) -> None:
        scanned = scan_images(paths, size, channels, keep=False)
        content = {"content": scanned.content.tolist(), "broken": scanned.broken}
        (folder / "scan.json").write_text(json.dumps(content), encoding="utf-8")

    try:
        stored = json.loads(
            (cached_folder(f"scan-{state.hexdigest()}", fill) / "scan.json").read_text(encoding="utf-8")
        )
    except OSError:
        return scan_images(paths, size, channels, keep=False)
    broken = {int(position): reason for position, reason in stored["broken"].items()}
    return ScannedImages(None, torch.tensor(stored["content"], dtype=torch.int64), broken)


def broken_images_note(
    broken: Sequence[str], total: int, on_error: Literal["fail", "skip"], where: str
) -> tuple[str, ...]:
    """Return a note on the broken images that are left out, none without any.

    Args:
        broken: 'path: reason' of each.
        total: number of images, broken ones included.
        on_error: whether broken images are left out.
        where: setting that names the data, for the error.

    Raises:
        UserError: there are any with ``fail``, or more than ``MOST_BROKEN`` of all with ``skip``.
    """
    if not broken:
        return ()
    names = printable("; ".join(broken[:_NAMED])) + (" …" if len(broken) > _NAMED else "")
    found = f"{len(broken):,} of {total:,} images cannot be read"
    if on_error == "fail":
        hint = "repair or delete them, or leave them out: --set data.on_error=skip"
        raise UserError(where, f"{found}: {names}", "images that Pillow can read", hint)
    if len(broken) > MOST_BROKEN * total:
        allowed = f"at most {MOST_BROKEN:.0%} with data.on_error: skip"
        raise UserError(where, f"{found}: {names}", allowed, "repair or delete them")
    return (f"data: {found} and are left out (data.on_error: skip): {names}",)


_ScanPart = partial[decode.Scan]


def _in_parts(paths: Sequence[str], parts: int, scan: _ScanPart) -> dict[int, decode.Scan]:
    """Run ``scan(start, paths)`` on so many parts at once; return start → result, in order."""
    bounds = np.linspace(0, len(paths), parts + 1).astype(int).tolist()
    with ThreadPoolExecutor(parts) as pool:
        shares = [(start, list(paths[start:end])) for start, end in itertools.pairwise(bounds) if end > start]
        return dict(zip((s for s, _ in shares), pool.map(lambda share: scan(*share), shares), strict=True))


def _scan_here(
    rows: np.ndarray | None, size: int, channels: int, start: int, paths: list[str]
) -> decode.Scan:
    return decode.scan(paths, size, channels, None if rows is None else rows[start : start + len(paths)])


def _scan_in_process(file: str | None, size: int, channels: int, start: int, paths: list[str]) -> decode.Scan:
    job = {"target": file, "start": start, "paths": paths, "size": size, "channels": channels}
    done = subprocess.run(
        [sys.executable, str(Path(decode.__file__))],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"decoding images failed: {done.stderr.strip()[-500:]}")
    content, broken = json.loads(done.stdout)
    return decode.Scan(content, {int(position): reason for position, reason in broken.items()})
