"""ONNX graphs in few bytes: without doc strings and default attributes, with short names and small types."""

from collections.abc import Iterator
from typing import Any

import numpy as np

_LEAST_HALVES = 24
"""Floats are stored as fp16 from this many on: a Cast takes about as many bytes as it saves below."""

_LET_ROUNDING_PASS = {
    *("Relu", "LeakyRelu", "Clip", "MaxPool"),
    *("Identity", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"),
}


def shrink(model: Any, *, four_bit: set[str]) -> bytes:
    """Return the serialised ``onnx_ir`` model, made small; the model is changed.

    Args:
        model: as an exporter made it.
        four_bit: names of int8 initialisers whose values lie in [−8, 7]: they become INT4.

    Raises:
        onnx.checker.ValidationError: the graph is wrong.
    """
    import onnx
    import onnx_ir as ir
    from onnx_ir.passes import common

    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    graph = model.graph
    model.producer_name = model.producer_version = graph.name = None
    small = {value for name, value in graph.initializers.items() if name in four_bit}
    _share_equal(graph, small)
    for value in small:
        if value.name in graph.initializers:
            _retype(value, ir.tensor(value.const_value.numpy(), dtype=ir.DataType.INT4))
    _multiply_where_floats_follow(graph)
    for value in list(graph.initializers.values()):
        _as_half(graph, value)
    _shorten(graph)
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    proto.graph.name = "g"  # the checker wants one
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def _share_equal(graph: Any, small: set[Any]) -> None:
    held: dict[Any, Any] = {}
    for value in list(graph.initializers.values()):
        array = value.const_value.numpy()
        first = held.setdefault((str(array.dtype), array.shape, array.tobytes(), value in small), value)
        if first is not value:
            value.replace_all_uses_with(first)
            del graph.initializers[value.name]


def _multiply_where_floats_follow(graph: Any) -> None:
    """Replace DequantizeLinear of weights by Cast and Mul where the layer computes in floats anyway."""
    import onnx_ir as ir

    for node in list(graph):
        if node.op_type != "DequantizeLinear" or not node.inputs[0].is_initializer():
            continue
        (made,) = node.outputs
        if all(_computes_integers(user) for user, _ in made.uses()):
            continue
        axis = node.attributes["axis"].value if "axis" in node.attributes else 1
        scales = node.inputs[1].const_value.numpy()
        shape = [-1 if i == axis else 1 for i in range(len(node.inputs[0].const_value.shape))]
        wide = ir.Value(name=f"{made.name}_scale", const_value=ir.tensor(scales.reshape(shape)))
        _retype(wide, wide.const_value)
        graph.register_initializer(wide)
        cast = ir.node("Cast", [node.inputs[0]], {"to": ir.DataType.FLOAT})
        multiplied = ir.node("Mul", [cast.outputs[0], wide])
        graph.insert_before(node, [cast, multiplied])
        made.replace_all_uses_with(multiplied.outputs[0])
        graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


def _computes_integers(node: Any) -> bool:
    """Return whether onnxruntime may compute a layer in integers; it finds none behind a Transpose."""
    source = node.inputs[0].producer() if node.op_type != "Transpose" else None
    if source is None or source.op_type != "DequantizeLinear":
        return False
    return node.op_type == "MatMul" or _is_rounded(node.outputs[0])


def _is_rounded(value: Any) -> bool:
    """Return whether a layer's output is rounded, at once or after operators that let rounding pass.

    onnxruntime moves the rounding to the layer, and rounds weights anew, by one scale, that are floats there.
    """
    return any(
        user.op_type == "QuantizeLinear" or (_lets_pass(user) and _is_rounded(user.outputs[0]))
        for user, _ in value.uses()
    )


def _lets_pass(node: Any) -> bool:
    by_constant = node.op_type in ("Add", "Mul") and any(value.is_initializer() for value in node.inputs)
    return node.op_type in _LET_ROUNDING_PASS or by_constant  # a constant becomes part of the layer


def _retype(value: Any, tensor: Any) -> None:
    import onnx_ir as ir

    value.const_value, value.type, value.shape = tensor, ir.TensorType(tensor.dtype), tensor.shape


def _as_half(graph: Any, value: Any) -> None:
    """Store an initialiser as fp16 with a Cast, where fp16 holds every value exactly."""
    import onnx_ir as ir

    array = value.const_value.numpy()
    if array.dtype != np.float32 or array.size < _LEAST_HALVES:
        return
    with np.errstate(over="ignore"):
        halves = array.astype(np.float16)
    if not np.array_equal(halves.astype(np.float32), array):
        return
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
    value.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, value)
    graph.insert_before(graph[0], cast)
    _retype(value, ir.tensor(halves))


def _shorten(graph: Any) -> None:
    """Give values short names; remove names of nodes, inner shapes and attributes that say the default."""
    kept, names = {*graph.inputs, *graph.outputs}, _names()
    for value in list(graph.initializers.values()):
        value.name = next(names)
    for node in graph:
        node.name = None
        for name, default in _defaults(node).items():
            if name in node.attributes and _plain(node.attributes[name]) == default:
                del node.attributes[name]
        for value in node.outputs:
            if value not in kept:
                value.name, value.shape, value.type = next(names), None, None


def _plain(attribute: Any) -> Any:
    return list(attribute.value) if isinstance(attribute.value, tuple | list) else attribute.value


def _defaults(node: Any) -> dict[str, Any]:
    """Return attributes of a node with the value that the operator assumes without them."""
    if node.op_type in ("Conv", "MaxPool", "AveragePool"):
        kernel = node.attributes.get("kernel_shape")
        rank = len(kernel.value) if kernel is not None else 2
        ones = [1] * rank
        common = {"auto_pad": "NOTSET", "dilations": ones, "pads": [0] * 2 * rank, "strides": ones}
        if node.op_type == "Conv":
            # The shape of the kernel is that of the weight.
            return {**common, "group": 1, "kernel_shape": _plain(kernel) if kernel is not None else None}
        return {**common, "ceil_mode": 0, "storage_order": 0, "count_include_pad": 0}
    others: dict[str, dict[str, Any]] = {
        "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
        "QuantizeLinear": {"axis": 1, "saturate": 1},
        "DequantizeLinear": {"axis": 1},
        "ReduceMean": {"keepdims": 1, "noop_with_empty_axes": 0},
        "Flatten": {"axis": 1},
    }
    return others.get(node.op_type, {})


def _names() -> Iterator[str]:
    digits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    number = 0
    while True:
        rest, name = number, digits[number % 52]
        while rest := rest // 52:
            name += digits[rest % 52]
        yield name
        number += 1
