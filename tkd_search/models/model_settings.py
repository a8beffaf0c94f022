"""Settings of the big model and of the student."""

from dataclasses import dataclass
from typing import Any, Literal

from tkd_search.distill.quantization.number_format import Format
from tkd_search.fields import SettingError, check_bounds, setting

_PIXELS = "pixels are in [0, 1]: divide values of 0 to 255 by 255"
CUT = "cut"
"""``student.name`` of students cut from the first big model."""


def check_normalisation(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    """Check the fields ``mean`` and ``std`` of a settings dataclass.

    Raises:
        SettingError: only one of them is set, or they are not of pixels in [0, 1].
    """
    if (mean is None) != (std is None):
        missing, other = ("mean", "std") if mean is None else ("std", "mean")
        raise SettingError(missing, "null", f"a list of numbers, because {other} is set; or both null")
    if std is not None and not all(0 < value <= 1 for value in std or (0,)):
        raise SettingError("std", repr(std), f"a list of numbers above 0, at most 1; {_PIXELS}")
    if mean is not None and not all(0 <= value <= 1 for value in mean):
        raise SettingError("mean", repr(mean), f"a list of numbers from 0 to 1; {_PIXELS}")


@dataclass(frozen=True, kw_only=True)
class BigModelSettings:
    """Settings of the big model, the network to compress."""

    name: str = setting(
        "alexnet", doc="name of torchvision, timm/<name> or package.module:function", searchable=False
    )
    width: float = setting(
        1.0, gt=0, le=4, doc="channel multiplier where the architecture has one", searchable=False
    )
    args: dict[str, Any] = setting(
        default_factory=dict, doc="further arguments of the constructor", searchable=False, leaves=True
    )
    weights: str | None = setting(
        None,
        doc="safetensors or torch file, one of torchvision's weights such as IMAGENET1K_V1, a tag of timm "
        "such as in1k, or pretrained for the library's default; weights for other classes get a new last "
        "layer and are fine-tuned; default: train from random weights",
        searchable=False,
    )
    fine_tune: bool = setting(
        False,
        doc="fine-tune weights even if their last layer has the data's number of classes",
        searchable=False,
    )
    head_epochs: int = setting(
        1, ge=0, doc="epochs that train a new last layer alone, before all layers", searchable=False
    )
    layer_decay: float = setting(
        1.0,
        gt=0,
        le=1,
        doc="in fine-tuning, factor of lr from each twelfth of the layers to the one before it",
        searchable=False,
    )
    stem: Literal["auto", "small", "original"] = setting(
        "auto",
        doc="strides of the first layers: original (the library's), small (fewer) or auto (the stem that the "
        "weights fit; without weights, small for inputs up to 64 pixels)",
        searchable=False,
    )
    input_size: int | None = setting(
        None, ge=4, doc="side of F's images in pixels; default: data.size", searchable=False
    )
    mean: tuple[float, ...] | None = setting(
        None,
        doc="mean by which F's images are normalised, per plane, of pixels in [0, 1]; default: of weights by "
        "name theirs, else data.mean",
        searchable=False,
    )
    std: tuple[float, ...] | None = setting(
        None, doc="deviation, as mean; default: of weights by name theirs, else data.std", searchable=False
    )
    epochs: int = setting(30, ge=1, doc="epochs that train or fine-tune F", searchable=False)
    lr: float = setting(2e-3, gt=0, le=1, doc="peak learning rate", searchable=False)
    weight_decay: float = setting(0.05, ge=0, doc="decoupled weight decay", searchable=False)
    batch_size: int = setting(128, ge=2, doc="batch size", searchable=False)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        doc="autocast precision of F's training; auto: training.precision",
        searchable=False,
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        check_normalisation(self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class StudentSettings:
    """Settings of the student: an architecture, its size and its number format."""

    name: str = setting(
        "mobilenet_v2",
        doc="name of torchvision, timm/<name>, cut (from the first big model) or package.module:function",
    )
    width: float = setting(0.25, gt=0, le=4, doc="channel multiplier; of a cut the share of channels kept")
    depth: float = setting(
        1.0, gt=0, le=4, doc="multiplier of blocks per stage, where the architecture has one"
    )
    args: dict[str, Any] = setting(
        default_factory=dict,
        doc="further arguments of the constructor, of every name but cut; each may be a distribution",
        leaves=True,
    )
    weights: str | None = setting(
        None,
        doc="weights to start from, as in big_model.weights; a narrower student takes evenly spaced "
        "channels; pretrained has no effect where the library has none; default: random weights",
    )
    stem: Literal["auto", "small", "original"] = setting(
        "auto",
        doc="strides of the first layers: original (the library's), small (fewer) or auto (small for inputs "
        "up to 64 pixels)",
        searchable=False,
    )
    input_size: int | None = setting(
        None, ge=4, doc="side of the student's images in pixels; default: data.size, of a cut the big model's"
    )
    importance: Literal["magnitude", "bn_scale", "taylor", "random"] = setting(
        "magnitude", doc="criterion by which a cut chooses the channels it keeps", when={"name": (CUT,)}
    )
    ratios: list[float] | dict[str, Any] | None = setting(
        None,
        doc="shares of channels that a cut keeps in place of width: by stage (a list of numbers, the largest "
        "maps first) or by layer (a mapping; each may be a distribution)",
        when={"name": (CUT,)},
        leaves=True,
    )
    format: Format = setting(
        "fp32", doc="number format of the shipped weights; int8 also rounds the inputs of layers"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
