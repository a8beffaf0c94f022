"""Image files by index, decoded on access."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tkd_search.data import decode
from tkd_search.errors import UserError

_THREADS = 4


@dataclass(frozen=True)
class FolderStore:
    """Image files decoded on access by four threads; an ``ImageStore``.

    ``files`` are relative to ``root``; every image is returned as uint8 [C, size, size].
    """

    root: str
    files: tuple[str, ...]
    size: int
    channels: int

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return uint8 [B, C, size, size] for an int64 ``index`` [B].

        Raises:
            UserError: an image is damaged; names the file.
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
        """Return the path of one image file."""
        return os.path.join(self.root, self.files[position])

    def subset(self, positions: Tensor) -> "FolderStore":
        """Return a store of the files at ``positions`` [n], in that order."""
        return replace(self, files=tuple(self.files[i] for i in positions.tolist()))

    def joined(self, other: "FolderStore") -> "FolderStore":
        """Return a store of these files and others below the same root."""
        return replace(self, files=self.files + other.files)

    def fingerprint(self) -> str:
        """Return a hash of the files' names and sizes, in order; contents are not read."""
        state = hashlib.blake2b(f"{self.size}:{self.channels}".encode(), digest_size=16)
        for position, name in enumerate(self.files):
            state.update(f"{name}:{os.stat(self.path(position)).st_size};".encode(errors="surrogateescape"))
        return state.hexdigest()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="decode")

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...], int, int]]:
        """Pickle the fields without the thread pool."""
        return FolderStore, (self.root, self.files, self.size, self.channels)


def damaged_image(found: str) -> UserError:
    """Return the UserError for the text 'path: reason' of a DamagedImageError."""
    path, _, reason = found.partition(": ")
    return UserError(
        path, reason or "a damaged image", "an image that Pillow can read", "replace or delete it"
    )
