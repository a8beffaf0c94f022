"""Self-attention in a cut: which tensors hold its heads, and a stand-in for tracing.

Shape letters: E embedding width, H heads, d width of a head, E = H · d. The queries, keys and values are
stacked in one tensor of 3 · E rows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.models.torchvision_compat import torchvision


@dataclass(frozen=True)
class AttentionTensors:
    """Names, relative to the module, of the tensors of one self-attention.

    ``rows``: tensors whose axis 0 is 3 · E rows of queries, keys and values. ``columns``: tensors whose axis
    1 reads the embedding. ``inner``: the weight whose axis 1 reads the heads. ``outer``: tensors whose axis 0
    writes the embedding.
    """

    width: int
    heads: int
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    inner: str
    outer: tuple[str, ...]


def attention_tensors(module: nn.Module) -> AttentionTensors | None:
    """Return the tensors of a self-attention that can be cut, or None for any other module.

    These are ``nn.MultiheadAttention`` with one embedding width, and modules with ``qkv``, ``proj`` and
    ``num_heads`` without anything between them that depends on the heads (timm's ``Attention``).
    """
    if isinstance(module, nn.MultiheadAttention):
        if module.in_proj_weight is None or module.bias_k is not None:
            return None
        rows = ("in_proj_weight", *(("in_proj_bias",) if module.in_proj_bias is not None else ()))
        return AttentionTensors(
            module.embed_dim,
            module.num_heads,
            rows,
            ("in_proj_weight",),
            "out_proj.weight",
            _named(module, "out_proj"),
        )
    if _is_stacked(module):
        return AttentionTensors(
            module.qkv.in_features,  # type: ignore[union-attr, arg-type]
            int(module.num_heads),  # type: ignore[arg-type]
            _named(module, "qkv"),
            ("qkv.weight",),
            "proj.weight",
            _named(module, "proj"),
        )
    return None


def _is_stacked(module: nn.Module) -> bool:
    qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear):
        return False
    width = qkv.in_features
    whole = (qkv.out_features, proj.in_features, proj.out_features) == (3 * width, width, width)
    known = {"qkv.weight", "qkv.bias", "proj.weight", "proj.bias"}
    alone = {name for name, _ in module.named_parameters()} <= known
    return whole and alone and isinstance(getattr(module, "num_heads", None), int)


def _named(module: nn.Module, layer: str) -> tuple[str, ...]:
    return tuple(f"{layer}.{name}" for name, _ in module.get_submodule(layer).named_parameters())


def kept_head_width(width: int, heads: int, share: float) -> tuple[int, int]:
    """Return (heads, width of a head) that are left of ``heads`` heads of ``width // heads`` at a share."""
    left = max(1, round(share * heads))
    return left, min(width // heads, max(1, round(share * width / left)))


def set_heads(module: nn.Module, heads: int) -> None:
    """Set the number of heads after the tensors of ``module`` were cut; in place.

    Raises:
        ValueError: the module is no self-attention, or its width is no multiple of ``heads``.
    """
    weight = getattr(module, "in_proj_weight", None)
    stacked = _is_stacked(module)
    if not stacked and not isinstance(weight, Tensor):
        raise ValueError(f"{type(module).__name__} has no heads")
    width: int = module.qkv.in_features if stacked else weight.shape[1]  # type: ignore[union-attr, assignment]
    if heads < 1 or width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}")
    changed: dict[str, Any] = {"num_heads": heads, "head_dim": width // heads}
    if stacked:
        changed |= {"attn_dim": width, "scale": (width // heads) ** -0.5}
    else:
        changed |= {"embed_dim": width, "kdim": width, "vdim": width}
    for name, value in changed.items():
        if hasattr(module, name):
            setattr(module, name, value)


def set_hidden_width(network: nn.Module) -> None:
    """Set the embedding width that torchvision's ViT reshapes its patches to; in place."""
    for module in network.modules():
        if isinstance(module, torchvision.models.VisionTransformer):
            module.hidden_dim = module.conv_proj.out_channels


class AttentionStandIn(nn.LayerNorm):
    """A layer that couples its input and output channels as a self-attention does.

    torch-pruning follows channels through the reshapes inside an attention in part only; it traces this
    layer in its place.
    """

    def __init__(self, width: int, pair: bool) -> None:
        super().__init__(width)
        self.pair = pair

    def forward(self, query: Tensor, *rest: Any, **settings: Any) -> Any:  # type: ignore[override]
        """Return the normalised input; with None for the attention weights where ``pair``."""
        given = [*rest, *(settings.get(name) for name in ("key", "value"))]
        if any(isinstance(one, Tensor) and one is not query for one in given if self.pair):
            raise NotImplementedError("attention between two inputs")
        made = super().forward(query)
        return (made, None) if self.pair else made


def replace_attention(network: nn.Module) -> dict[str, AttentionTensors]:
    """Replace every self-attention by its stand-in, in place; return its tensors by the module's name."""
    found = {
        name: tensors
        for name, module in network.named_modules()
        if (tensors := attention_tensors(module)) is not None
    }
    for name, tensors in found.items():
        old = network.get_submodule(name)
        new = AttentionStandIn(tensors.width, isinstance(old, nn.MultiheadAttention))
        anchor = next(old.parameters())
        network.set_submodule(name, new.to(device=anchor.device, dtype=anchor.dtype))
    return found


def head_mask(scores: Tensor, heads: int, share: float) -> Tensor:
    """Return which of the E = H · d inner dimensions stay, bool [E], by their scores [E].

    The heads of the largest sums stay, and in each the dimensions of the largest scores.
    """
    left, width = kept_head_width(len(scores), heads, share)
    by_head = scores.view(heads, -1)
    chosen = by_head.sum(1).argsort(descending=True, stable=True)[:left]
    kept = torch.zeros_like(by_head, dtype=torch.bool)
    for head in chosen.tolist():
        kept[head, by_head[head].argsort(descending=True, stable=True)[:width]] = True
    return kept.flatten()
