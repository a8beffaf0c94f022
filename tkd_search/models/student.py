"""Wraps a classifier so that it returns logits, penultimate features and their maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.interfaces import StudentOutput, logits_of
from tkd_search.models.image_input import Render
from tkd_search.models.module_roles import find_module_roles


@dataclass
class _Captured:
    """Tensors captured by the hooks of one forward pass; closed and empty between passes.

    The hooks and the student share one object, so copying a student copies it once and the hooks of the copy
    write to the copy.
    """

    open: bool = False
    features: Tensor | None = None
    maps: Tensor | None = None


@dataclass(frozen=True)
class _CaptureInput:
    """Forward pre-hook that captures the input of the last layer, h."""

    captured: _Captured

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.captured.open:
            self.captured.features = args[0]


@dataclass(frozen=True)
class _CaptureOutput:
    """Forward hook that captures the output of a module, the maps."""

    captured: _Captured

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self.captured.open:
            self.captured.maps = output


class Student(nn.Module):
    """Wraps any classifier as a :class:`tkd_search.distill.interfaces.StudentLike`; also used for big models.

    Features h are the input of the dropout before the last layer, so this dropout changes the logits alone.
    The features of a network that does not end in ``nn.Linear`` (SqueezeNet) are its logits.

    Args:
        model: images [B, C, H, W] → logits [B, c], stored as ``.model``. The shipped weights are
            ``student.model.state_dict()``.
        input_shape: (C, H, W) of the network's images. A random batch of two is run to find the last layer
            and the maps; the global random state does not change.
        render: turns the images that the student is given into those that its network takes; None: the same.

    Attributes:
        input_shape: as given.
        render: as given.
        feature_width: width d of the penultimate features h.
        roles: the modules found (:class:`tkd_search.models.module_roles.ModuleRoles`).
    """

    def __init__(self, model: nn.Module, input_shape: Sequence[int], render: Render | None = None) -> None:
        super().__init__()
        self.model = model
        self.input_shape = tuple(input_shape)
        self.render = render
        self.roles = find_module_roles(model, _example(model, input_shape))
        self.feature_width = self.roles.width
        self._captured = _Captured()
        if self.roles.features is not None:
            entry = model.get_submodule(self.roles.features)
            entry.register_forward_pre_hook(_CaptureInput(self._captured))
            if isinstance(getattr(entry, "inplace", None), bool) and entry is not self._head():
                # An in-place dropout would overwrite h.
                entry.inplace = False  # type: ignore[assignment]
        if self.roles.maps is not None:
            model.get_submodule(self.roles.maps).register_forward_hook(_CaptureOutput(self._captured))

    def forward(self, images: Tensor) -> StudentOutput:
        """Map images [B, C, H, W] → logits [B, c], features [B, d], maps [B, d, H', W'] or None."""
        captured = self._captured
        captured.open = True
        try:
            logits = logits_of(self.model(images if self.render is None else self.render(images)))
            features, maps = captured.features, captured.maps
        finally:
            captured.open, captured.features, captured.maps = False, None, None
        return StudentOutput(logits, logits if features is None else features, maps)

    def classify(self, features: Tensor) -> Tensor:
        """Apply the last layer alone, without dropout: features [..., d] → logits [..., c]."""
        head = self._head()
        return features if head is None else head(features)

    def _head(self) -> nn.Module | None:
        return None if self.roles.head is None else self.model.get_submodule(self.roles.head)


def _example(model: nn.Module, input_shape: Sequence[int]) -> Tensor:
    first = next(iter(model.parameters()), torch.zeros(()))
    shape = (2, *input_shape)
    if first.is_meta:
        return torch.empty(shape, device="meta", dtype=first.dtype)
    with torch.device("cpu"):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(first)
