"""Size of a model: bytes of its stored weights, and number of parameters."""

import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the types in a safetensors header, in the order in which the file stores their tensors."""

_RANK = {dtype: rank for rank, dtype in enumerate(_DTYPES)}


def shipping_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict as it is stored: detached, contiguous, each tied tensor once."""
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor.detach().contiguous()
    return kept


def state_bytes(state: Mapping[str, Tensor]) -> int:
    """Return the length of ``state`` as a safetensors file without metadata, from names and shapes alone.

    The file is an 8-byte length, a JSON header padded to a multiple of 8, and the tensors, ordered by type
    and then by name. The order determines the number of digits of the offsets in the header.
    """
    order = sorted(state, key=lambda name: (_RANK[state[name].dtype], name))
    header, offset = {}, 0
    for name in order:
        tensor = state[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + (text + 7) // 8 * 8 + offset


def model_bytes(module: nn.Module) -> int:
    """Return the bytes of the model's weights as stored; a model on the meta device has the same size."""
    return state_bytes(shipping_state(module))


def model_parameters(module: nn.Module) -> int:
    """Return the number of parameters, tied ones once, without buffers such as BatchNorm's statistics."""
    return sum(parameter.numel() for parameter in module.parameters())
