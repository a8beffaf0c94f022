"""A network as the tensors of ``model.safetensors``, the network from them, and the bytes without weights."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from tkd_search.distill.quantization.number_format import Format, rounds_inputs
from tkd_search.distill.quantization.rounding import along, restored_scale, stored_scale, to_integers
from tkd_search.distill.quantization.simulation import (
    RoundedLayer,
    input_grids,
    plain,
    set_rounding,
    simulate,
)
from tkd_search.distill.quantization.targets import Target, reads_inputs, targets
from tkd_search.files import write_bytes
from tkd_search.formats.folding import find_folds, fold_batchnorm, is_tracked
from tkd_search.models.size import state_bytes

VALUES, INT8, INT4 = "v", "q", "p"
"""Names of the tensors in the file: floats; weights as int8; weights as two 4-bit integers per byte."""

_RANGES = ("input_reach", "input_scale", "input_zero", "observed")


@dataclass(frozen=True)
class Piece:
    """A parameter or buffer of a folded network that ships.

    Attributes:
        module, name: where it is.
        shape, dtype: of the network's tensor.
        target: how it is rounded; None for a tensor that stays as it is.
    """

    module: str
    name: str
    shape: torch.Size
    dtype: torch.dtype
    target: Target | None = None

    @property
    def count(self) -> int:
        """Number of values."""
        return self.shape.numel()

    @property
    def tensor(self) -> str:
        """Name of the tensor in the file that holds it; buffers of integers are kept by type."""
        if self.target is not None:
            return INT4 if self.target.bits == 4 else INT8
        return VALUES if self.dtype.is_floating_point else str(self.dtype).removeprefix("torch.")


def shipped_bytes(network: nn.Module, format: Format) -> int:
    """Return the exact length of the ``model.safetensors`` that ``save`` would write.

    Args:
        network: plain network (a student's ``.model``); its weights are not read, so the meta device will do.
        format: number format.
    """
    pieces = tuple(_pieces(network, format, find_folds(network)))
    counts: dict[str, int] = {}
    dtypes = {VALUES: _float(format), INT8: torch.int8, INT4: torch.uint8}
    for piece in pieces:
        dtypes.setdefault(piece.tensor, piece.dtype)
        counts[piece.tensor] = counts.get(piece.tensor, 0) + piece.count
    floats = sum(piece.shape[piece.target.axis] for piece in pieces if piece.target is not None)
    if rounds_inputs(format):
        floats += 2 * len(list(_with_grids(network, format)))
    counts[VALUES] = counts.get(VALUES, 0) + floats
    if INT4 in counts:
        counts[INT4] = math.ceil(counts[INT4] / 2)
    meta = partial(torch.empty, device="meta")
    return state_bytes({name: meta(count, dtype=dtypes[name]) for name, count in counts.items() if count})


@torch.no_grad()
def pack(network: nn.Module, format: Format) -> dict[str, Tensor]:
    """Return the tensors of the file: at most one per type, each one-dimensional, on the CPU.

    Args:
        network: plain or simulated network, folded or not.
        format: number format; int8 needs a network that ``simulate`` prepared and whose ranges are known
            (from training or ``calibrate``).

    Raises:
        ValueError: a value is not finite or beyond the format's range; int8 without ranges of inputs.
    """
    folded = fold_batchnorm(network).cpu()
    parts: dict[str, list[Tensor]] = {VALUES: []}
    for piece in _pieces(folded, format, {}):
        value = _finite(_tensors(folded, piece)[piece.name].detach(), piece)
        if piece.target is None:
            parts.setdefault(piece.tensor, []).append(_stored(value, piece, format))
            continue
        integers, scales = to_integers(value, piece.target.bits, piece.target.axis)
        parts.setdefault(piece.tensor, []).append(integers.flatten())
        parts[VALUES].append(_finite(stored_scale(scales), piece))
    if rounds_inputs(format):
        parts[VALUES] += [part.flatten() for part in _grids(folded, format)]
    flat = {name: torch.cat(values) for name, values in parts.items() if values}
    if INT4 in flat:
        flat[INT4] = pack_nibbles(flat[INT4])
    return flat


@torch.no_grad()
def unpack(tensors: Mapping[str, Tensor], network: nn.Module, format: Format) -> nn.Module:
    """Return a network that computes what the file computes, in eval mode; with int8 it rounds its inputs.

    Args:
        tensors: of the file.
        network: of the same architecture, with any weights; it is not changed.
        format: number format of the file.

    Raises:
        ValueError: the file holds other tensors than this architecture and format need.
    """
    folded = fold_batchnorm(network)
    plain(folded)
    if rounds_inputs(format):
        simulate(folded, format)
    pieces = list(_pieces(folded, format, {}))
    reader = _Reader(tensors, sum(p.count for p in pieces if p.tensor == INT4))
    for piece in pieces:
        own = _tensors(folded, piece)[piece.name]
        if piece.target is None:
            own.copy_(reader.take(piece.tensor, piece.count).view(piece.shape))
            continue
        integers = reader.take(piece.tensor, piece.count).view(piece.shape)
        scales = restored_scale(reader.take(VALUES, piece.shape[piece.target.axis]))
        own.copy_(integers * along(scales, piece.target.axis, len(piece.shape)))
    for scale, zero in input_grids(folded).values():
        stored = reader.take(VALUES, 2)
        scale.copy_(restored_scale(stored[0]))
        zero.copy_(stored[1])
    reader.finish()
    set_rounding(folded, False, inputs=True)
    return folded.requires_grad_(False)


def save(network: nn.Module, format: Format, path: str | Path) -> int:
    """Write ``model.safetensors`` atomically and return its length; errors as of ``pack``."""
    target, content = Path(path), serialise(pack(network, format))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, content)
    return len(content)


def pack_nibbles(integers: Tensor) -> Tensor:
    """Return integers in [−8, 7] [n] as bytes [⌈n/2⌉]: the first of two in the low half, as ONNX has them."""
    padded = torch.nn.functional.pad(integers, (0, integers.numel() % 2)).view(torch.uint8) & 15
    return padded[::2] | (padded[1::2] << 4)


def unpack_nibbles(packed: Tensor, count: int) -> Tensor:
    """Return the ``count`` integers of ``pack_nibbles`` as int8."""
    both = torch.stack((packed & 15, packed >> 4), 1).flatten()[:count].view(torch.int8)
    return torch.where(both > 7, both - 16, both)


def _pieces(network: nn.Module, format: Format, folds: Mapping[str, str]) -> Iterator[Piece]:
    """Yield what ships of a network, folded already or to be folded by ``folds``; a tied tensor once."""
    rounded = {(target.module, target.parameter): target for target in targets(network, format)}
    gone, seen = set(folds.values()), set()
    for name, module in network.named_modules():
        if name in gone:
            continue
        if is_tracked(module):
            # Becomes a scale and a shift.
            statistics: Any = module.running_mean
            yield Piece(name, "weight", statistics.shape, statistics.dtype)
            yield Piece(name, "bias", statistics.shape, statistics.dtype)
            continue
        for part, tensor in _own_tensors(module):
            if tensor is None:
                if part == "bias" and name in folds:
                    channels: Any = network.get_submodule(folds[name]).running_mean
                    yield Piece(name, part, channels.shape, channels.dtype)
            elif id(tensor) not in seen:
                seen.add(id(tensor))
                yield Piece(name, part, tensor.shape, tensor.dtype, rounded.get((name, part)))


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor | None]]:
    yield from module._parameters.items()
    for name, buffer in module._buffers.items():
        ships = buffer is not None and name not in module._non_persistent_buffers_set
        if ships and not (isinstance(module, RoundedLayer) and name in _RANGES):
            yield name, buffer


def _tensors(network: nn.Module, piece: Piece) -> dict[str, Any]:
    module = network.get_submodule(piece.module)
    return {**module._parameters, **module._buffers}


def _with_grids(network: nn.Module, format: Format) -> Iterator[str]:
    """Yield the names of the layers whose inputs are rounded."""
    names = dict.fromkeys(target.module for target in targets(network, format))
    return (name for name in names if reads_inputs(network.get_submodule(name)))


def _grids(folded: nn.Module, format: Format) -> Iterator[Tensor]:
    """Yield scale and zero point [2] of every layer with rounded inputs."""
    grids = input_grids(folded)
    for name in _with_grids(folded, format):
        if name not in grids:
            raise ValueError(
                f"{name}: int8 needs the range of its inputs; call simulate(network, 'int8') and "
                "calibrate(network, images) first"
            )
        scale, zero = grids[name]
        yield torch.stack((stored_scale(scale), zero.half()))


def _float(format: Format) -> torch.dtype:
    return torch.float32 if format == "fp32" else torch.float16


def _stored(value: Tensor, piece: Piece, format: Format) -> Tensor:
    if piece.tensor != VALUES:
        return value.flatten()
    return _finite(value.flatten().to(_float(format)), piece)


def _finite(stored: Tensor, piece: Piece) -> Tensor:
    if not stored.isfinite().all():
        where = f"{piece.module}.{piece.name}".lstrip(".")
        raise ValueError(f"{where}: a value that is not finite or beyond the range of {stored.dtype}")
    return stored


class _Reader:
    """Takes values from the file's tensors in order."""

    def __init__(self, tensors: Mapping[str, Tensor], nibbles: int) -> None:
        self._left = dict(tensors)
        if INT4 in self._left and self._left[INT4].numel() == math.ceil(nibbles / 2):
            self._left[INT4] = unpack_nibbles(self._left[INT4], nibbles)

    def take(self, name: str, count: int) -> Tensor:
        held = self._left.get(name, torch.empty(0))
        if held.numel() < count:
            raise ValueError(f"tensor {name!r} holds fewer values than the architecture needs")
        self._left[name] = held[count:]
        return held[:count]

    def finish(self) -> None:
        rest = {name: held.numel() for name, held in self._left.items() if held.numel()}
        if rest:
            raise ValueError(f"values that the architecture does not need: {rest}")
