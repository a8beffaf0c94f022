"""How large a model is: bytes as stored for shipping, and parameters."""

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
"""Names of the types in a safetensors header, in the order in which the file holds their tensors."""

_RANK = {dtype: rank for rank, dtype in enumerate(_DTYPES)}


def shipping_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict as it is stored: detached and contiguous; a tied tensor once, under its first name."""
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor.detach().contiguous()
    return kept


def state_bytes(state: Mapping[str, Tensor]) -> int:
    """Length of the safetensors serialisation of ``state`` without metadata, from names and shapes alone.

    The file is an 8-byte length, a JSON header padded to a multiple of 8, and the tensors; they lie in order
    of type, then of name, which decides how many digits the offsets in the header take.
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
    """Size in bytes of the model's weights as stored for shipping; works on the meta device too."""
    return state_bytes(shipping_state(module))


def model_parameters(module: nn.Module) -> int:
    """Number of parameters, tied ones once; buffers such as BatchNorm's statistics are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())
