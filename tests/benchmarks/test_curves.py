"""Reading recordings, ours and other people's."""

import gzip
import json

import numpy as np
import pytest

from benchmarks.simulator.curves import load_curves, space_from_json, space_to_json
from benchmarks.simulator.synthetic import SPACE
from tkd_search.errors import UserError


def rewrite_meta(folder, **changes):
    meta = {**json.loads((folder / "meta.json").read_text()), **changes}
    (folder / "meta.json").write_text(json.dumps({k: v for k, v in meta.items() if v is not None}))


def test_a_recording_comes_back_as_written(recording, synthetic):
    curves = load_curves(recording)
    assert curves.space == synthetic.space
    assert [dict(config) for config in curves.configs] == [dict(config) for config in synthetic.configs]
    assert curves.accuracy == pytest.approx(synthetic.accuracy, abs=1e-5)
    assert (curves.bytes == synthetic.bytes).all()
    assert (curves.epochs, curves.classes, curves.big_model_bytes) == (27, 10, synthetic.big_model_bytes)


def test_file_and_folder_are_both_accepted(recording):
    assert len(load_curves(recording / "curves.csv.gz")) == len(load_curves(recording))


def test_space_survives_json():
    assert space_from_json(json.loads(json.dumps(space_to_json(SPACE)))) == SPACE


def test_without_a_written_space_it_is_guessed(recording, synthetic):
    rewrite_meta(recording, space=None)
    curves = load_curves(recording)
    assert set(curves.space.leaves) == set(synthetic.space.leaves)
    assert all(
        curves.space.leaves[leaf].contains(value)
        for config in curves.configs
        for leaf, value in config.items()
    )


def test_incomplete_curves_are_left_out_and_counted(recording, synthetic):
    table = recording / "curves.csv.gz"
    lines = gzip.decompress(table.read_bytes()).decode().splitlines()
    table.write_bytes(gzip.compress("\n".join(lines[:-5]).encode()))
    curves = load_curves(recording)
    assert len(curves) == len(synthetic) - 1
    assert curves.left_out == 1


def test_percent_are_read_as_shares(recording, synthetic):
    table = recording / "curves.csv.gz"
    lines = gzip.decompress(table.read_bytes()).decode().splitlines()
    scaled = [lines[0]]
    for line in lines[1:]:
        *head, accuracy = line.split(",")
        scaled.append(",".join([*head, str(100 * float(accuracy))]))
    table.write_bytes(gzip.compress("\n".join(scaled).encode()))
    assert load_curves(recording).accuracy == pytest.approx(synthetic.accuracy, abs=1e-4)


@pytest.mark.parametrize("missing", ["curves.csv.gz", "meta.json"])
def test_missing_files_are_named(recording, missing):
    (recording / missing).unlink()
    with pytest.raises(UserError, match=missing.split(".")[0]):
        load_curves(recording)


def test_missing_big_model_bytes_are_named(recording):
    rewrite_meta(recording, big_model_bytes=None)
    with pytest.raises(UserError, match="big_model_bytes"):
        load_curves(recording)


def test_accuracies_are_in_the_unit_interval(recording):
    accuracy = load_curves(recording).accuracy
    assert np.isfinite(accuracy).all()
    assert 0 <= accuracy.min() <= accuracy.max() <= 1
