"""Images by index: files that are decoded on access, and images that were decoded once into a file."""

import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

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

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="decode")

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...], int, int]]:
        """Pickle the fields without the thread pool."""
        return FolderStore, (self.root, self.files, self.size, self.channels)


@dataclass(frozen=True)
class DecodedStore:
    """Images of a ``.npy`` file uint8 [M, C, H, W], read on access by four threads; an ``ImageStore``.

    ``rows`` int64 [N] are the images in it, and ``source`` their files where they are known. The pages are in
    the system's cache, which all processes of a machine share; they are read, not mapped, so that they are
    never counted as memory of a process.
    """

    file: Path
    rows: Tensor
    source: FolderStore | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return uint8 [B, C, H, W] for an int64 ``index`` [B].

        Raises:
            OSError: the file is shorter than its header says.
        """
        wanted = self.rows[index.reshape(-1)].tolist()
        descriptor, first, shape = self._opened
        images = np.empty((len(wanted), *shape), np.uint8)

        def read(share: int) -> None:
            for position in range(share, len(wanted), _THREADS):
                image = images[position]
                found = os.preadv(descriptor, [image.data], first + wanted[position] * image.nbytes)
                if found != image.nbytes:
                    raise OSError(f"{self.file} is too short")

        list(self._pool.map(read, range(_THREADS)))
        return torch.from_numpy(images)

    def subset(self, positions: Tensor) -> "DecodedStore":
        """Return a store of the images at ``positions`` [n], in that order."""
        source = None if self.source is None else self.source.subset(positions)
        return DecodedStore(self.file, self.rows[positions], source)

    def joined(self, other: "DecodedStore") -> "DecodedStore":
        """Return a store of these images and others of the same file."""
        assert self.file == other.file
        known = self.source is not None and other.source is not None
        source = self.source.joined(other.source) if known else None  # type: ignore[union-attr, arg-type]
        return DecodedStore(self.file, torch.cat([self.rows, other.rows]), source)

    @cached_property
    def _opened(self) -> tuple[int, int, tuple[int, ...]]:
        """Return the file's descriptor, open as long as this store lives, the images' offset and shape."""
        images = np.load(self.file, mmap_mode="r")
        descriptor = os.open(self.file, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor, images.offset, images.shape[1:]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="read")

    def __reduce__(self) -> tuple[type, tuple[Path, Tensor, FolderStore | None]]:
        """Pickle the fields without the open file and the threads."""
        return DecodedStore, (self.file, self.rows, self.source)


def damaged_image(found: str) -> UserError:
    """Return the UserError for the text 'path: reason' of a DamagedImageError."""
    path, _, reason = found.partition(": ")
    return UserError(
        path, reason or "a damaged image", "an image that Pillow can read", "replace or delete it"
    )
