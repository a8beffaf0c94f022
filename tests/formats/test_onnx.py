"""The small ONNX file computes in onnxruntime what the loaded file and the simulated network compute."""

import onnx
import onnxruntime
import pytest
import torch

from tests.formats.nets import FAMILIES, PLAIN, built, family, images, own, simulated, trained
from tkd_search.formats import FORMATS, pack, unpack
from tkd_search.formats.onnx_writer import onnx_bytes


def runtime(file: bytes):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda given: torch.from_numpy(session.run(None, {"images": given.numpy()})[0])


def loaded(network, format):
    student = simulated(network, format, images())
    return student, unpack(pack(student, format), network, format)


OWN_NAMES = ["Transposed", "Tied", "PreActivation"]
CASES = [(name, format) for name in [*FAMILIES, *OWN_NAMES] for format in ("int8", "int4")]
CASES += [(name, format) for name in [PLAIN, "mobilenet_v2", *OWN_NAMES] for format in ("fp32", "fp16")]


@pytest.mark.parametrize(("name", "format"), CASES)
def test_onnxruntime_computes_what_the_file_computes(name, format):
    network = family(name) if name in FAMILIES else own(name)
    student, shipped = loaded(network, format)
    run = runtime(onnx_bytes(shipped, format, (3, 32, 32)))
    given = images(64, seed=1)
    with torch.no_grad():
        expected, simulation, unrounded = shipped(given), student(given), network(given)
    found = run(given)
    if format == "int8":
        # Sums in another order round a few inputs to the next integer, which spreads over layers.
        # Two independent roundings differ by √2 times the error of one.
        assert (found - expected).abs().mean() <= 1.5 * (unrounded - simulation).abs().mean()
        return
    for size in (1, 3, 64):
        torch.testing.assert_close(run(given[:size]), expected[:size], rtol=1e-3, atol=1e-4)
    assert found.shape == expected.shape


@pytest.mark.parametrize("format", FORMATS)
def test_a_trained_student_its_file_and_onnxruntime_agree(format):
    student, held_out = trained(format)
    shipped = unpack(pack(student, format), student, format)
    run = runtime(onnx_bytes(shipped, format, (1, 8, 8)))
    with torch.no_grad():
        simulation, file = student(held_out).argmax(1), shipped(held_out).argmax(1)
    found = run(held_out).argmax(1)
    for left, right in ((simulation, file), (file, found), (simulation, found)):
        assert (left == right).double().mean() >= 0.995


@pytest.mark.parametrize("format", FORMATS)
def test_files_hold_weights_in_the_format_and_little_else(format):
    _, shipped = loaded(family("mobilenet_v2"), format)
    weights = sum(t.numel() * t.element_size() for t in pack(shipped, format).values())
    file = onnx_bytes(shipped, format, (3, 32, 32))
    assert len(file) < weights + 20_000
    assert b"site-packages" not in file
    graph = onnx.load_from_string(file).graph
    assert not graph.value_info
    assert not any(node.name or node.doc_string for node in graph.node)
    types = {onnx.TensorProto.DataType.Name(one.data_type) for one in graph.initializer}
    expected = {"fp32": "FLOAT", "fp16": "FLOAT16", "int8": "INT8", "int4": "INT4"}[format]
    assert expected in types


def rewritten(file: bytes, where):
    """Return the graph that onnxruntime runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(where / "run.onnx")
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return onnx.load(where / "run.onnx").graph


def test_int8_convolutions_run_in_integers(tmp_path):
    _, shipped = loaded(family(PLAIN), "int8")
    graph = rewritten(onnx_bytes(shipped, "int8", (3, 32, 32)), tmp_path)
    assert "QLinearConv" in {node.op_type for node in graph.node}


def int8_weights(graph):
    return [
        one.name for one in graph.initializer if one.data_type == onnx.TensorProto.INT8 and len(one.dims) > 1
    ]


@pytest.mark.parametrize("name", [*FAMILIES, *OWN_NAMES])
def test_onnxruntime_rounds_no_int8_weight_anew(tmp_path, name):
    _, shipped = loaded(family(name) if name in FAMILIES else own(name), "int8")
    file = onnx_bytes(shipped, "int8", (3, 32, 32))
    given = onnx.load_from_string(file).graph
    integers = {read for node in given.node if node.op_type != "Cast" for read in node.input}
    assert len(int8_weights(rewritten(file, tmp_path))) == len(integers & {*int8_weights(given)})


def test_int8_weights_of_layers_that_run_in_floats_are_expanded_once(tmp_path):
    _, shipped = loaded(family("mobilenet_v3_small"), "int8")
    graph = rewritten(onnx_bytes(shipped, "int8", (3, 32, 32)), tmp_path)
    weights = {*int8_weights(graph)}
    in_runs = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in weights]
    assert len(in_runs) <= 3  # of convolutions that read a rounded image, and write one that others add to


@pytest.mark.parametrize("name", [PLAIN, "vit_b_16"])
def test_int4_weights_are_expanded_once(tmp_path, name):
    _, shipped = loaded(family(name), "int4")
    graph = rewritten(onnx_bytes(shipped, "int4", (3, 32, 32)), tmp_path)
    kinds = {node.op_type for node in graph.node}
    assert "DequantizeLinear" not in kinds
    assert name != PLAIN or not kinds & {"Cast", "Mul"}  # attention multiplies and casts by itself


def test_attention_is_exported_by_the_fast_exporter_and_in_silence(monkeypatch, capfd):
    from tkd_search.formats import onnx_writer

    _, shipped = loaded(family("vit_b_16"), "fp32")
    monkeypatch.setattr(onnx_writer, "_by_program", None)
    assert onnx_bytes(shipped, "fp32", (3, 32, 32))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_the_newer_exporter_writes_the_same(format, monkeypatch):
    from tkd_search.formats import onnx_writer

    _, shipped = loaded(built(PLAIN, 1.0), format)
    given = images(8, seed=1)
    expected = runtime(onnx_bytes(shipped, format, (3, 32, 32)))(given)

    def gone(*_):
        raise TypeError("dynamo=False")

    monkeypatch.setattr(onnx_writer, "_by_script", gone)
    found = runtime(onnx_bytes(shipped, format, (3, 32, 32)))(given)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
