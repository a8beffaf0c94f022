"""A plain classifier dressed as what the method asks for: logits, penultimate features and their maps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.interfaces import StudentOutput, logits_of
from tkd_search.models.wiring import find_wiring


@dataclass
class _Catch:
    """What the hooks of one forward pass have caught; closed (and empty) between passes.

    A plain object shared by the hooks and the student: copying a student copies it once, so the copy's hooks
    write to the copy.
    """

    open: bool = False
    features: Tensor | None = None
    maps: Tensor | None = field(default=None)


@dataclass(frozen=True)
class _CatchInput:
    """Forward pre-hook: the input of the last layer is h."""

    catch: _Catch

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        if self.catch.open:
            self.catch.features = given[0]


@dataclass(frozen=True)
class _CatchOutput:
    """Forward hook: the output of this module are the maps."""

    catch: _Catch

    def __call__(self, module: nn.Module, given: tuple[Any, ...], made: Tensor) -> None:
        if self.catch.open:
            self.catch.maps = made


class Student(nn.Module):
    """Any classifier, dressed as :class:`tkd_search.distill.interfaces.StudentLike`; big models wear it too.

    Args:
        model: images [B, C, H, W] → logits [B, c]; kept, undressed, as ``.model``. What is shipped is
            ``student.model.state_dict()``.
        input_shape: (C, H, W) of the images it will see; one random batch of two is run to find the last
            layer and the maps. The global random state is not touched.

    Attributes:
        feature_width: width d of the penultimate features h.
        wiring: the modules found (:class:`tkd_search.models.wiring.Wiring`).

    A dropout right before the last layer acts on the logits alone: h is what enters it. A network that does
    not end in ``nn.Linear`` (SqueezeNet) has its logits as features.
    """

    def __init__(self, model: nn.Module, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.wiring = find_wiring(model, _example(model, input_shape))
        self.feature_width = self.wiring.width
        self._catch = _Catch()
        if self.wiring.features is not None:
            entry = model.get_submodule(self.wiring.features)
            entry.register_forward_pre_hook(_CatchInput(self._catch))
            if isinstance(getattr(entry, "inplace", None), bool) and entry is not self._head():
                # An in-place dropout would write into h.
                entry.inplace = False  # type: ignore[assignment]
        if self.wiring.maps is not None:
            model.get_submodule(self.wiring.maps).register_forward_hook(_CatchOutput(self._catch))

    @property
    def has_maps(self) -> bool:
        """Whether there are maps whose spatial mean is h, as local teachers need."""
        return self.wiring.maps is not None

    def forward(self, images: Tensor) -> StudentOutput:
        """Normalised images [B, C, H, W] → logits [B, c], features [B, d], maps [B, d, H', W'] or None."""
        catch = self._catch
        catch.open = True
        try:
            logits = logits_of(self.model(images))
            features, maps = catch.features, catch.maps
        finally:
            catch.open, catch.features, catch.maps = False, None, None
        return StudentOutput(logits, logits if features is None else features, maps)

    def classify(self, features: Tensor) -> Tensor:
        """The last layer alone, without dropout: features [..., d] → logits [..., c]."""
        head = self._head()
        return features if head is None else head(features)

    def _head(self) -> nn.Module | None:
        return None if self.wiring.head is None else self.model.get_submodule(self.wiring.head)


def _example(model: nn.Module, input_shape: Sequence[int]) -> Tensor:
    anchor = next(iter(model.parameters()), torch.zeros(()))
    shape = (2, *input_shape)
    if anchor.is_meta:
        return torch.empty(shape, device="meta", dtype=anchor.dtype)
    with torch.device("cpu"):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(anchor)
