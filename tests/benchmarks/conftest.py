"""An invented recording on disk, in the format of the real one."""

import json

import pytest

from benchmarks.record_curves import Curve, Recorder
from benchmarks.simulator.curves import space_to_json
from benchmarks.simulator.synthetic import synthetic_curves


@pytest.fixture(scope="session")
def synthetic():
    return synthetic_curves(120, seed=1)


@pytest.fixture
def recording(tmp_path, synthetic):
    """Folder with curves.csv.gz and meta.json."""
    recorder = Recorder(tmp_path, synthetic.space)
    for i, (config, size, accuracy) in enumerate(
        zip(synthetic.configs, synthetic.bytes, synthetic.accuracy, strict=True)
    ):
        recorder.add(Curve(i, config, int(size), tuple(accuracy), 1.0))
    recorder.pack()
    meta = {
        "space": space_to_json(synthetic.space),
        "epochs": synthetic.epochs,
        "classes": synthetic.classes,
        "big_model_bytes": synthetic.big_model_bytes,
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    return tmp_path
