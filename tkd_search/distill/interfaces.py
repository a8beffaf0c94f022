"""Types of the student and of the data that the method needs.

Shape letters used throughout the package: B rows of a batch, c classes, M taps, n candidates, K selected
teachers, P banked width of a tap, d penultimate width of the student, q parameters of an activation,
G cells per side, A views, N training images, R = A·N bank rows.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

UNLABELLED = -1
"""Label of an image whose class is not known."""


class StudentOutput(NamedTuple):
    """Output of a student for a batch.

    ``logits`` z [B, c]; ``features`` h [B, d], the penultimate features; ``maps`` [B, d, H', W'], whose
    mean over positions is h, or None where the network has none. ``stages`` are the maps
    [B, d_j, H_j, W_j] at the ends of its stages, empty where the trainer does not read them.
    """

    logits: Tensor
    features: Tensor
    maps: Tensor | None = None
    stages: tuple[Tensor, ...] = ()


@runtime_checkable
class StudentLike(Protocol):
    """A ``torch.nn.Module`` that can be trained as a student."""

    feature_width: int
    """Width d of the penultimate features."""

    def __call__(self, images: Tensor) -> StudentOutput:
        """Return logits, features and maps of normalised images [B, C, H, W]."""
        ...

    def classify(self, features: Tensor) -> Tensor:
        """Apply the last layer alone: features [..., d] → logits [..., c]."""
        ...


class ViewSource(Protocol):
    """Training images in deterministic views: equal (index, view) always give the same image.

    A source whose images are not in memory may have ``read(index)``, which another thread calls ahead of
    ``batch(index, view, stored)``, and whose result is ``stored``.
    """

    labels: Tensor
    """int64 [N]; ``UNLABELLED`` where an image has no label."""
    views: int
    """Number of fixed views A ≥ 1; 0 where views are drawn freely: view ids are then arbitrary seeds ≥ 0."""

    def __len__(self) -> int:
        """Return the number of training images N."""
        ...

    def batch(self, index: Tensor, view: Tensor) -> Tensor:
        """Return normalised float32 images [B, C, H, W] for ``index`` [B] in [0, N) and ``view`` [B]."""
        ...


StopSignal = Callable[[], bool]
"""Returns True where a training must stop."""


def never() -> bool:
    """Return False: the stop signal that never stops a training."""
    return False


def logits_of(output: object) -> Tensor:
    """Return the logits [B, c] in the output of a classifier: a tensor, a StudentOutput or a tuple.

    Raises:
        TypeError: the output has none of these types.
    """
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(f"a classifier must return logits [B, c]; found {type(output).__name__}")


def channels_last(images: Tensor) -> Tensor:
    """Return images [B, C, H, W] in the memory format in which convolutions are fastest, others unchanged."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
