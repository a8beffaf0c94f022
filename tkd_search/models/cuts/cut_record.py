"""The record of a cut, plain JSON, and the architecture that is rebuilt from it without F's weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tkd_search.errors import UserError
from tkd_search.models.cuts.attention import set_heads, set_hidden_width
from tkd_search.models.cuts.channel_tensors import count_channels

SCHEMA = 1


def apply_cut(network: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Give a network of F's architecture the shapes of a cut, in place, and return it.

    Args:
        network: F's plain network as its constructor makes it, on any device, "meta" included.
        record: what ``Cut.record`` holds, also after a round trip through JSON.

    Its tensors become the first channels of those it had; a state dict of the cut then loads. Neither F's
    weights nor torch-pruning are needed.

    Raises:
        UserError: the record is damaged, or is of another architecture.
    """
    try:
        if record["schema"] != SCHEMA:
            raise UserError("cut.schema", repr(record["schema"]), str(SCHEMA), "update tkd_search")
        shapes = {str(name): tuple(map(int, shape)) for name, shape in record["shapes"].items()}
        heads = {str(name): int(count) for name, count in record["heads"].items()}
        state = network.state_dict(keep_vars=True)
        write_tensors(
            network, {name: _narrowed(state[name], shape, name) for name, shape in shapes.items()}, heads
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            "cut",
            f"a record that does not fit the big model's architecture ({error})",
            "the record written with the student, and the architecture of the big model it was cut from",
            "export the student again",
        ) from error
    return network


def write_tensors(network: nn.Module, tensors: Mapping[str, Tensor], heads: Mapping[str, int]) -> None:
    """Replace tensors of a network by cut ones, and set the counts of its layers to fit; in place.

    Args:
        network: a network whose tensors have these names.
        tensors: new values of parameters and buffers by name.
        heads: heads of self-attentions by the module's name.
    """
    touched = set()
    for name, tensor in tensors.items():
        owner_name, _, last = name.rpartition(".")
        owner = network.get_submodule(owner_name)
        if last in owner._buffers:
            owner._buffers[last] = tensor.detach()
        else:
            old = owner._parameters[last]
            assert old is not None
            owner._parameters[last] = nn.Parameter(tensor.detach(), requires_grad=old.requires_grad)
        touched.add(owner)
    for module in touched:
        count_channels(module)
    for name, count in heads.items():
        set_heads(network.get_submodule(name), count)
    set_hidden_width(network)


def _narrowed(tensor: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    if len(shape) != tensor.dim() or any(
        not 1 <= new <= old for new, old in zip(shape, tensor.shape, strict=True)
    ):
        raise ValueError(f"{name}: {list(shape)} of {list(tensor.shape)}")
    return tensor.detach()[tuple(slice(size) for size in shape)].clone()
