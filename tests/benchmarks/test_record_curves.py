"""The recorder: two real configurations of a tiny experiment, and going on after a stop."""

import gzip
import json

import pytest

from benchmarks import record_curves
from benchmarks.record_curves import Curve, Recorder, recorded_points
from benchmarks.simulator.curves import load_curves
from benchmarks.simulator.sizes import exact_sizes
from benchmarks.simulator.synthetic import SPACE

TINY = [
    *("--set", "training.epochs=2"),
    *("--set", "training.batch_size=64"),
    *("--set", "data.train_limit=100"),
    *("--set", "data.views=1"),
    *("--set", "big_model.epochs=1"),
    *("--set", "big_model.width=0.1"),
    *("--set", "student.width={choice: [0.1, 0.15]}"),
    *("--workers", "1"),
]


def test_records_and_goes_on(tmp_path, capsys):
    out = tmp_path / "tiny"
    record_curves.main(["--configs", "1", "--out", str(out), *TINY])
    with pytest.raises(SystemExit, match="--resume"):
        record_curves.main(["--configs", "2", "--out", str(out), *TINY])
    record_curves.main(["--configs", "2", "--out", str(out), "--resume", *TINY])
    curves = load_curves(out)
    assert (len(curves), curves.epochs, curves.left_out) == (2, 2, 0)
    assert curves.accuracy.shape == (2, 2)
    assert sorted(path.name for path in out.iterdir()) == ["curves.csv.gz", "meta.json"]
    size_of = exact_sizes(curves)
    assert size_of is not None
    assert [size_of(config) for config in curves.configs] == curves.bytes.tolist()
    assert "--configs" in json.loads((out / "meta.json").read_text())["command"]


def test_points_are_fixed_and_in_the_space():
    points = recorded_points(SPACE, 40, seed=0)
    assert points == recorded_points(SPACE, 50, seed=0)[:40]
    assert all(SPACE.contains(point) for point in points)
    assert points != recorded_points(SPACE, 40, seed=1)


def test_a_half_written_row_is_dropped(tmp_path):
    recorder = Recorder(tmp_path, SPACE)
    point = recorded_points(SPACE, 1, 0)[0]
    recorder.add(Curve(0, point, 1000, (0.5, 0.6), 1.0))
    with open(tmp_path / "curves.csv", "a") as table:
        table.write("c0001,0.3")
    assert Recorder(tmp_path, SPACE).recorded() == {"c0000"}


def test_packing_loses_nothing(tmp_path):
    recorder = Recorder(tmp_path, SPACE)
    recorder.add(Curve(0, recorded_points(SPACE, 1, 0)[0], 1000, (0.5, 0.6), 1.0))
    plain = (tmp_path / "curves.csv").read_bytes()
    recorder.pack()
    assert gzip.decompress((tmp_path / "curves.csv.gz").read_bytes()) == plain
    assert Recorder(tmp_path, SPACE).recorded() == {"c0000"}
