"""Image files by number: decoded all at once where they fit in memory, on access where they do not."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tkd_search.data import decode
from tkd_search.errors import UserError

PROCESS_SHARE = 4000
"""Least number of images that are worth a process of their own."""

_THREADS = 4


@dataclass(frozen=True)
class FolderStore:
    """Image files decoded on access, in a few threads; an ``ImageStore``.

    ``files`` are relative to ``root``; every image comes as uint8 [C, size, size].
    """

    root: str
    files: tuple[str, ...]
    size: int
    channels: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Tensor) -> Tensor:
        """uint8 [B, C, size, size] for an int64 ``index`` [B].

        Raises:
            UserError: a damaged image; names it.
        """
        paths = [self.path(position) for position in index.reshape(-1).tolist()]
        rows = np.empty((len(paths), self.channels, self.size, self.size), np.uint8)
        try:
            if len(paths) < 2 * _THREADS:
                decode.decode_into(rows, paths)
            else:
                list(
                    self._pool.map(
                        lambda i: decode.decode_into(rows[i::_THREADS], paths[i::_THREADS]), range(_THREADS)
                    )
                )
        except decode.DamagedImageError as error:
            raise damaged_image(str(error)) from error
        return torch.from_numpy(rows)

    def path(self, position: int) -> str:
        """Path of one image file."""
        return os.path.join(self.root, self.files[position])

    def subset(self, positions: Tensor) -> "FolderStore":
        """The files at ``positions`` [n], in that order."""
        return replace(self, files=tuple(self.files[i] for i in positions.tolist()))

    def fingerprint(self) -> str:
        """A hash of file names and sizes, in order; contents are not read."""
        state = hashlib.blake2b(f"{self.size}:{self.channels}".encode(), digest_size=16)
        for position, name in enumerate(self.files):
            state.update(f"{name}:{os.stat(self.path(position)).st_size};".encode())
        return state.hexdigest()

    def nbytes(self) -> int:
        """Bytes that all images would take in memory."""
        return len(self.files) * self.channels * self.size**2

    def decoded(self) -> Tensor:
        """All images as a uint8 tensor [N, C, size, size]; many files are shared out among processes.

        Raises:
            UserError: a damaged image; names it.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processes = min(cores, len(self.files) // PROCESS_SHARE)
        if processes < 2:
            return self[torch.arange(len(self.files))]
        return self._decoded_by(processes)

    def _decoded_by(self, processes: int) -> Tensor:
        shape = (len(self.files), self.channels, self.size, self.size)
        with tempfile.TemporaryDirectory(prefix="tkd-decode-") as folder:
            target = os.path.join(folder, "images.npy")
            np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape).flush()
            bounds = np.linspace(0, shape[0], processes + 1).astype(int).tolist()
            shares = list(itertools.pairwise(bounds))
            with ThreadPoolExecutor(processes) as watchers:
                for failure in watchers.map(lambda share: self._decode_share(target, *share), shares):
                    if failure is not None:
                        raise failure
            return torch.from_numpy(np.load(target))

    def _decode_share(self, target: str, start: int, end: int) -> Exception | None:
        """Have images ``start`` to ``end`` decoded into rows of ``target`` by a process of its own."""
        paths = [self.path(position) for position in range(start, end)]
        done = subprocess.run(
            [sys.executable, str(Path(decode.__file__))],
            input=json.dumps({"target": target, "start": start, "paths": paths}),
            capture_output=True,
            text=True,
            check=False,
        )
        return _failure(done.stdout, done.stderr) if done.returncode else None

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="decode")

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...], int, int]]:
        """Travel between processes without the threads."""
        return FolderStore, (self.root, self.files, self.size, self.channels)


def damaged_image(found: str) -> UserError:
    """The error for ``found`` = 'path: reason'."""
    path, _, reason = found.partition(": ")
    return UserError(
        path, reason or "a damaged image", "an image that Pillow can read", "replace or delete it"
    )


def _failure(said: str, complained: str) -> Exception:
    try:
        return damaged_image(json.loads(said)["damaged"])
    except (ValueError, KeyError):
        return RuntimeError(f"decoding images failed: {complained.strip()[-500:]}")
