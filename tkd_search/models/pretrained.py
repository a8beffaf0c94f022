"""Tensors of pretrained networks: from a file, or the weights of torchvision and timm by their names."""

import urllib.error
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tkd_search.errors import UserError, first_line
from tkd_search.models.architectures.timm_networks import (
    PREFIX,
    is_timm,
    pretrained_cfg,
    pretrained_tags,
    timm,
)
from tkd_search.models.checkpoint_files import SUFFIXES, read_state
from tkd_search.models.model_settings import CUT
from tkd_search.models.torchvision_compat import torchvision

DEFAULT_TAG = "pretrained"
"""Name of the default weights of a network in its library."""


def has_default(name: str) -> bool:
    """Return whether the library of a network has weights for it; False for a function of the user's."""
    if is_timm(name):
        return bool(pretrained_tags(name))
    return ":" not in name and bool(_weight_names(name))


def starts_pretrained(name: str, weights: str | None) -> bool:
    """Return whether a student of this name and these settings starts from weights."""
    if name == CUT:  # it has the big model's
        return False
    return weights is not None and (weights != DEFAULT_TAG or has_default(name))


def named_state(weights: str, *, name: str, where: str) -> tuple[dict[str, Tensor], str]:
    """Read the tensors that ``weights`` names.

    Args:
        weights: a file; one of torchvision's weights, such as IMAGENET1K_V1; a tag of timm; or
            ``pretrained``, the library's default.
        name: the network, by the name that the settings have.
        where: key path that errors name.

    Returns:
        The tensors by name, and a description of their source for errors.

    Raises:
        UserError: there is no such file and there are no such weights, or the download fails.
    """
    if _is_file(weights):
        path = Path(weights).expanduser()
        return read_state(path, where), str(path)
    read = _from_timm if is_timm(name) else _from_torchvision
    return read(name, weights, where), f"{name} {weights}"


def normalisation_of(name: str, weights: str | None) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return mean and deviation per plane that weights of torchvision or timm were trained with.

    None without weights, for a file (nothing in it says so), and for weights that the library does not have.
    """
    if weights is None or not starts_pretrained(name, weights) or _is_file(weights):
        return None
    if is_timm(name):
        tag = "" if weights == DEFAULT_TAG else f".{weights}"
        found = pretrained_cfg(f"{name}{tag}")
        return None if found is None else (tuple(found.mean), tuple(found.std))
    try:
        preset = _entry(name, weights).transforms()
    except (KeyError, ValueError):
        return None
    if name in ("googlenet", "inception_v3"):  # torchvision gives these a ``transform_input`` to .5 and .5
        return (0.5,) * 3, (0.5,) * 3
    return tuple(preset.mean), tuple(preset.std)


def _is_file(weights: str) -> bool:
    path = Path(weights).expanduser()
    return path.suffix in SUFFIXES or path.is_file()


def _entry(name: str, weights: str) -> Any:
    """Return torchvision's entry of weights by name.

    Raises:
        KeyError: no such weights.
        ValueError: no such network.
    """
    choices = torchvision.models.get_model_weights(name)
    return choices["DEFAULT" if weights == DEFAULT_TAG else weights.rpartition(".")[2]]


def _from_torchvision(name: str, weights: str, where: str) -> dict[str, Tensor]:
    try:
        entry = _entry(name, weights)
    except (KeyError, ValueError) as error:
        names = _weight_names(name)
        raise UserError(
            where, repr(weights), f"a weights file, or weights of torchvision for {name}: {names or 'none'}"
        ) from error
    try:
        return dict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            where,
            f"{entry.url}: {error}",
            "a download with the right checksum",
            f"without internet access, copy {Path(entry.url).name} into {torch.hub.get_dir()}/checkpoints",
        ) from error


def _weight_names(name: str) -> str:
    try:
        return ", ".join(entry.name for entry in torchvision.models.get_model_weights(name))
    except ValueError:
        return ""


def _from_timm(name: str, weights: str, where: str) -> dict[str, Tensor]:
    tags = pretrained_tags(name)
    if not tags or weights not in (DEFAULT_TAG, *tags):
        known = f"{DEFAULT_TAG}, {', '.join(tags)}" if tags else "none"
        raise UserError(where, repr(weights), f"a weights file, or weights of timm for {name}: {known}")
    tag = tags[0] if weights == DEFAULT_TAG else weights
    own = name.removeprefix(PREFIX)
    try:
        # The network as pretrained, because timm converts the tensors of some files.
        return dict(timm().create_model(f"{own}.{tag}", pretrained=True).state_dict())
    except Exception as error:  # of the hub's client, of its HTTP library, or of torch
        raise UserError(
            where,
            f"{name} {tag}: {first_line(error)}",
            "a download that succeeds",
            f"without internet access, download model.safetensors of timm/{own}.{tag} elsewhere and set "
            f"{where} to that file",
        ) from error
