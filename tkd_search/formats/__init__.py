"""Number formats as bytes: the tensors of ``model.safetensors`` and the graph of ``model.onnx``.

What is here
    ``folding`` removes batch norms from a copy of a network. ``packing`` turns a network into the tensors of
    ``model.safetensors`` and back, and counts the file's bytes without weights. ``onnx_writer`` writes
    ``model.onnx``. ``tkd_search.distill.quantization`` holds the arithmetic, because training simulates it.

Formats
    fp32, fp16: all tensors in that type. int8: weights symmetric per output channel in [−127, 127], inputs of
    layers affine per tensor in [0, 255]. int4: weights symmetric per output channel in [−7, 7] with the clip
    of least squared error, two per byte; channels of fewer than 32 weights (depthwise) in int8; inputs are
    not rounded. Biases, norms, embeddings and scales of int8 and int4 are fp16.

Why one tensor per type
    The header of a safetensors file is JSON and takes about 65 bytes a tensor: 13 kB for a MobileNetV2 in
    int8, more than the weights of a small student. All values of one type are therefore laid end to end in
    one tensor, in the order in which the network defines its modules. Shapes come from the architecture,
    which is rebuilt by name.

Why fp16 scales
    Integers are chosen with the float32 scale and the scale is stored as a multiple of 1/256 in fp16: a
    relative error of at most 2⁻¹² per channel, for half of the bytes. A depthwise channel has 9 weights; fp32
    scales would add a sixth to it.
"""

from tkd_search.distill.quantization.number_format import FORMATS, Format
from tkd_search.formats.packing import pack, save, shipped_bytes, unpack

__all__ = [
    "FORMATS",
    "Format",
    "pack",
    "save",
    "shipped_bytes",
    "unpack",
]
