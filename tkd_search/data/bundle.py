"""A data set in memory: three splits of uint8 images with labels, class names and statistics.

Shape letters: N images, C planes, H × W pixels, c classes.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tkd_search.distill.interfaces import UNLABELLED
from tkd_search.models.image_input import ImageInput


@runtime_checkable
class ImageStore(Protocol):
    """Images by index: a uint8 tensor [N, C, H, W], or a store that reads or decodes them on access."""

    def __len__(self) -> int:
        """Number of images N."""
        ...

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return uint8 [B, C, H, W] for an int64 ``index`` [B]."""
        ...


@dataclass(frozen=True)
class Split:
    """Images with labels int64 [N], ``UNLABELLED`` where an image has none.

    ``names`` are the images' files and ``content`` hashes of their pixels, int64 [N], as far as the source
    has them.
    """

    images: ImageStore
    labels: Tensor
    names: tuple[str, ...] = ()
    content: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def evenly(self, count: int) -> "Split":
        """Return at most ``count`` labelled images, evenly spaced: classes may lie in order."""
        labelled = torch.nonzero(self.labels != UNLABELLED)[:, 0]
        return self.subset(labelled[torch.linspace(0, len(labelled) - 1, min(count, len(labelled))).long()])

    def joined(self, other: "Split") -> "Split":
        """Return these images followed by others that are stored in the same way."""
        images, more, content = self.images, other.images, None
        if self.content is not None and other.content is not None:
            content = torch.cat([self.content, other.content])
        return Split(
            torch.cat([images, more]) if isinstance(images, Tensor) else images.joined(more),  # type: ignore[attr-defined, list-item]
            torch.cat([self.labels, other.labels]),
            content=content,
        )

    def subset(self, positions: Tensor) -> "Split":
        """Return the images at ``positions`` [n], in that order; only those of a tensor are copied."""
        images = self.images
        return Split(
            images[positions] if isinstance(images, Tensor) else images.subset(positions),  # type: ignore[attr-defined]
            self.labels[positions],
            tuple(self.names[i] for i in positions.tolist()) if self.names else (),
            None if self.content is None else self.content[positions],
        )


@dataclass(frozen=True)
class DataBundle:
    """A data set with its splits; unlabelled images are the last ones of ``train``.

    ``classes`` are the names of the labels 0 to c − 1; ``mean`` and ``std`` are per plane, of pixel values in
    [0, 1], over the labelled training images before ``train_limit``; ``digest`` is a hash of images, labels
    and splits; ``notes`` are lines for the user on how the data were read and split.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes c."""
        return len(self.classes)

    @property
    def unlabelled(self) -> int:
        """Number of training images without labels."""
        return int((self.train.labels == UNLABELLED).sum())

    @property
    def channels(self) -> int:
        """Number of planes C of an image: 1 grey, 3 colour."""
        return int(self._one_image().shape[1])

    @property
    def size(self) -> int:
        """Side of the square images in pixels."""
        return int(self._one_image().shape[-1])

    @property
    def input(self) -> ImageInput:
        """Size and normalisation of the images that batches hold."""
        return ImageInput(size=self.size, mean=self.mean, std=self.std)

    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def _one_image(self) -> Tensor:
        images = self.train.images
        return images[:1] if isinstance(images, Tensor) else images[torch.zeros(1, dtype=torch.int64)]
