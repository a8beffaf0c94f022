"""The benchmark of number formats: what it measures, and going on after a stop."""

import json

import pytest

from benchmarks.formats import __main__ as benchmark
from benchmarks.formats.figures import Row, lost, table

TINY = [
    "--images",
    "80",
    "--epochs",
    "2",
    "--big-epochs",
    "1",
    "--big-width",
    "0.1",
    "--rounds",
    "1",
    "--batches",
    "1",
]
STUDENT = "mobilenet_v2 ×0.25"


def run(file, *arguments):
    benchmark.main(["--json", str(file), "--students", STUDENT, *TINY, *arguments])
    return json.loads(file.read_text())


@pytest.mark.slow
def test_every_format_is_measured_once_and_another_seed_is_added(tmp_path, capsys):
    file = tmp_path / "formats.json"
    first = run(file, "--seeds", "1")
    kinds = [(row["format"], row["rounding"]) for row in first["figures"]]
    floats, after = [("fp32", "none"), ("fp16", "none")], [("int8", "after"), ("int4", "after")]
    assert kinds == [*floats, *after, ("int8", "trained"), ("int4", "trained")]
    sizes = {kind: row["bytes"] for kind, row in zip(kinds, first["figures"], strict=True)}
    assert sizes["fp32", "none"] > sizes["fp16", "none"] > sizes["int8", "after"] > sizes["int4", "after"]
    for format in ("int8", "int4"):
        assert sizes[format, "after"] == sizes[format, "trained"]
    assert all(set(row["latency_ms"]) == {"1", "32"} for row in first["figures"])
    assert [row["format"] for row in first["steps"]] == ["int8", "int4"]
    assert all(row["ratio"] == row["rounded_ms"] / row["plain_ms"] for row in first["steps"])
    again = run(file, "--seeds", "2")
    assert again["figures"][:6] == first["figures"]
    assert [row["seed"] for row in again["figures"]] == [0] * 6 + [1] * 6
    assert again["steps"] == first["steps"]
    assert again["big_model"] == first["big_model"]
    assert "goal ≤ 1.35" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="other settings"):
        run(file, "--seeds", "2", "--epochs", "3")


def row(format, rounding, seed, accuracy) -> Row:
    figures = {"bytes": 1, "onnx_bytes": 1, "latency_ms": {"1": 0.1, "32": 1.0}}
    kind = {"student": "s", "format": format, "rounding": rounding, "seed": seed}
    return {**kind, "accuracy": accuracy, **figures}


def test_losses_are_paired_by_seed():
    figures = [row("fp32", "none", 0, 0.5), row("fp32", "none", 1, 0.7)]
    figures += [row("int8", "trained", 1, 0.69), row("int8", "trained", 2, 0.1)]
    assert lost(figures, "s", "int8", "trained") == pytest.approx(-1.0)
    assert len(table(figures)) == 3
