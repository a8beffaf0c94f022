"""Decode many image files once: finds broken ones, hashes pixels, and keeps the images where they fit.

Images are kept in memory, or in a file of the machine's cache that all processes of the machine read.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tkd_search.data import decode
from tkd_search.errors import UserError, printable
from tkd_search.files import reserve, write_text
from tkd_search.storage.atomic_folder import unfinished_folder
from tkd_search.storage.remote_folders import cached_folder, node_cache, seal_folder, verify_folder

IMAGES_PER_PROCESS = 4000
"""Images that one process decodes: starting it takes less than a tenth of their time."""

IMAGES_FILE = "images.npy"
"""Decoded images in a folder of the cache, uint8 [n, C, size, size]."""

MOST_BROKEN = 0.01
"""Largest share of the images that may be left out."""

_THREADS, _NAMED, _CHUNK = 4, 10, "chunk-"
_SECONDS_BETWEEN = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScannedImages:
    """Result of :func:`scan_images` or :func:`scan_once` for n files.

    ``images`` are uint8 [n, C, size, size] or None; ``content`` are hashes of pixels, int64 [n]; ``broken``
    maps the position of a file that cannot be decoded to 'path: reason'; its image is undefined. ``file`` is
    the ``.npy`` file of the images where they are kept on the disk.
    """

    images: Tensor | None
    content: Tensor
    broken: dict[int, str]
    file: Path | None = None


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
    if _processes(paths) >= 2:
        # Processes pass their images on in a file; a full temporary folder makes one process do the work.
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix="tkd-decode-") as name:
            scanned = _scan_into(Path(name), paths, size, channels, keep=keep)
            images = torch.from_numpy(np.load(scanned.file)) if scanned.file is not None else None
            return replace(scanned, images=images, file=None)
    rows = np.empty((len(paths), channels, size, size), np.uint8) if keep else None
    images = None if rows is None else torch.from_numpy(rows)
    return replace(_merged(_scan_here(paths, size, channels, rows)), images=images)


def scan_once(
    paths: Sequence[str], size: int, channels: int, *, disk_budget_gb: float | None = 0.0
) -> ScannedImages:
    """Scan files once for this machine, and keep the images in its cache where they fit.

    A later call with files of the same names, sizes and times reads the result, so that a search that goes on
    does not decode all its images again. A call that was killed is continued after its last complete chunk.
    Where the cache cannot be written, or its disk is full, every call scans.

    Args:
        paths: image files.
        size: side of the square images in pixels.
        channels: planes C.
        disk_budget_gb: the images are kept if they take at most so many GB; None: half of the free space.
    """
    state = hashlib.blake2b(f"{decode.DECODE_VERSION}:{size}:{channels}".encode(), digest_size=16)
    for path in paths:
        with contextlib.suppress(OSError, ValueError):  # missing, or no path: the scan finds it
            file = os.stat(path)
            path = f"{os.path.abspath(path)}:{file.st_size}:{file.st_mtime_ns}"
        state.update(f"{path};".encode(errors="surrogateescape"))
    images = f"images-{state.hexdigest()}"
    keep = _fits(node_cache() / images, len(paths) * channels * size**2, disk_budget_gb)
    name = images if keep else f"scan-{state.hexdigest()}"

    def fill(folder: Path) -> None:
        if not (folder / "scan.json").exists():  # else only the end was cut off by a kill
            scanned = _scan_into(folder, paths, size, channels, keep=keep)
            content = {"content": scanned.content.tolist(), "broken": scanned.broken}
            write_text(folder / "scan.json", json.dumps(content))
        for file in folder.glob(f"{_CHUNK}*"):
            file.unlink()
        seal_folder(folder)

    try:
        verify_folder(str(node_cache() / name))
        folder = cached_folder(name, fill, resumable=True)
        stored = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
    except OSError as error:
        _log.warning(f"images are decoded in every epoch, because {node_cache()} cannot keep them ({error})")
        return scan_images(paths, size, channels, keep=False)
    broken = {int(position): reason for position, reason in stored["broken"].items()}
    content = torch.tensor(stored["content"], dtype=torch.int64)
    return ScannedImages(None, content, broken, folder / IMAGES_FILE if keep else None)


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


def _fits(target: Path, size: int, budget_gb: float | None) -> bool:
    """Return whether images of ``size`` bytes may be kept; those that are on the disk stay there."""
    if budget_gb is not None:
        return size <= budget_gb * 1e9
    if target.exists() or (unfinished_folder(target) / IMAGES_FILE).exists():
        return True
    place = next(place for place in (target, *target.parents) if place.exists())
    return size <= shutil.disk_usage(place).free // 2


def _processes(paths: Sequence[str]) -> int:
    """Return how many processes to decode with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, len(paths) // IMAGES_PER_PROCESS)


def _scan_into(folder: Path, paths: Sequence[str], size: int, channels: int, *, keep: bool) -> ScannedImages:
    """Scan files in chunks, whose results are kept in ``folder``; chunks that are there are not scanned."""
    file = folder / IMAGES_FILE if keep else None
    if file is not None and not file.exists():
        _allocate(file, (len(paths), channels, size, size))
    starts = range(0, len(paths), IMAGES_PER_PROCESS)

    def scan(start: int) -> decode.Scan:
        stored, chunk = folder / f"{_CHUNK}{start}.json", paths[start : start + IMAGES_PER_PROCESS]
        if not stored.exists():
            job = {"target": file and str(file), "start": start, "paths": list(chunk)}
            write_text(stored, _scan_in_process({**job, "size": size, "channels": channels}))
        content, broken = json.loads(stored.read_text(encoding="utf-8"))
        return decode.Scan(content, {int(position): reason for position, reason in broken.items()})

    parts, said = dict[int, decode.Scan](), time.monotonic()
    with ThreadPoolExecutor(max(1, _processes(paths))) as pool:
        for start, part in zip(starts, pool.map(scan, starts), strict=True):
            parts[start] = part
            if time.monotonic() - said >= _SECONDS_BETWEEN:
                said = time.monotonic()
                _log.warning(
                    f"decoded {start + len(part.content):,} of {len(paths):,} images, once for all runs"
                )
    return replace(_merged(parts), file=file)


def _allocate(file: Path, shape: tuple[int, ...]) -> None:
    """Create a ``.npy`` file of images, for which the disk reserves the space.

    Raises:
        OSError: the disk has not so much space.
    """
    part = file.with_suffix(".new")
    np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape).flush()
    with part.open("r+b") as content:
        reserve(content.fileno(), part.stat().st_size)
    part.rename(file)


def _merged(parts: dict[int, decode.Scan]) -> ScannedImages:
    """Return the result of parts by the position of their first file, in order."""
    content = [one for part in parts.values() for one in part.content]
    broken = {start + at: why for start, part in parts.items() for at, why in part.broken.items()}
    return ScannedImages(None, torch.tensor(content, dtype=torch.int64), broken)


def _scan_here(
    paths: Sequence[str], size: int, channels: int, rows: np.ndarray | None
) -> dict[int, decode.Scan]:
    """Scan files in a few threads of this process; return start → result of each part."""
    bounds = np.linspace(0, len(paths), _THREADS + 1).astype(int).tolist()

    def scan(share: tuple[int, int]) -> decode.Scan:
        own = slice(*share)
        return decode.scan(list(paths[own]), size, channels, None if rows is None else rows[own])

    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(bounds, pool.map(scan, itertools.pairwise(bounds)), strict=False))


def _scan_in_process(job: dict[str, Any]) -> str:
    """Return the output of a process that scans one chunk, a :class:`decode.Scan` as JSON."""
    done = subprocess.run(
        [sys.executable, str(Path(decode.__file__))],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"decoding images failed: {done.stderr.strip()[-500:]}")
    return done.stdout
