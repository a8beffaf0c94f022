"""Stages before the trials: stored data sets, keys of big models, results of a stage."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.writers import write_image_folder, write_images
from tests.full_disk import limited
from tkd_search.config.experiment_file import load_config
from tkd_search.data import DataBundle, DataSettings, load_data
from tkd_search.data.prepared_files import load_prepared
from tkd_search.engine import pipeline
from tkd_search.engine.pipeline import big_model_key
from tkd_search.engine.progress import Silent
from tkd_search.storage import remote_folders

SCRIPT = """
import sys
from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data
from tkd_search.engine.pipeline import store_data
from tkd_search.files import DiskFullError
data = load_data(load_config(None, []).settings().data)
try:
    print(store_data(data, sys.argv[1]))
except DiskFullError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [100, 20_000])  # the first labels, the first images
def test_a_full_disk_is_reported_and_no_part_of_the_data_stays(tmp_path, limit):
    cache = tmp_path / "cache"
    done = limited(limit, "-c", SCRIPT, cache, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{cache}/data-")
    assert "found a full disk (File too large)" in done.stdout
    assert list(cache.iterdir()) == []
    again = limited(10**9, "-c", SCRIPT, cache, cwd=tmp_path)
    assert again.stdout.splitlines() == [str(folder) for folder in cache.iterdir()]


def test_a_stage_yields_no_alive_results(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = [{"kind": "alive", "epoch": 1}, {"kind": "epoch", "epoch": 2}, {"kind": "done"}]
    monkeypatch.setattr(pipeline, "_on_one_group", lambda queue, job: iter(pushed))
    queue: Any = None
    assert list(pipeline.run_stage(queue, {"kind": "trial"})) == pushed[1:]


def test_the_key_of_a_big_model_depends_on_the_precision_of_its_training() -> None:
    data = load_data(load_config(None, []).settings().data)

    def key(*settings: str) -> str:
        return big_model_key(load_config(None, list(settings)).settings(), 0, data)

    assert key("big_model.precision=bf16") != key()
    assert key("big_model.precision=bf16") == key("training.precision=bf16")
    assert key("big_model.precision=fp32", "training.precision=bf16") == key()
    assert len({key("data.sampling=balanced"), key("training.class_weights=balanced"), key()}) == 3
    assert key("search.metric=macro_f1") != key()
    assert len({key("data.randaugment=2"), key("data.erasing=0.25"), key()}) == 3


def test_equal_big_models_are_trained_apart() -> None:
    twins = "big_model=[{name: alexnet}, {name: alexnet}]"
    settings = load_config(None, [twins, "student.name=mobilenet_v2", "student.ratios=null"]).settings()
    data = load_data(settings.data)
    assert big_model_key(settings, 0, data) != big_model_key(settings, 1, data)


def test_the_key_of_a_network_of_ones_own_depends_on_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    settings = load_config(None, ["big_model.name=own_network:net", "method.name=ce"]).settings()
    data = load_data(settings.data)
    module = tmp_path / "own_network.py"
    module.write_text("def net(num_classes): ...\n")
    key = big_model_key(settings, 0, data)
    assert big_model_key(settings, 0, data) == key
    module.write_text("def net(num_classes): 'changed'\n")
    assert big_model_key(settings, 0, data) != key


def test_images_that_have_moved_are_read_at_their_new_place(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "old", {"train": 40, "test": 9})

    def stored_at(folder: Path) -> DataBundle:
        settings = DataSettings(name="imagefolder", path=str(folder), size=8)
        object.__setattr__(settings, "memory_budget_mb", 0)  # less than a user may set: read from files
        object.__setattr__(settings, "disk_budget_gb", 0)
        return load_prepared(pipeline.store_data(load_data(settings), str(tmp_path / "cache")))

    before = stored_at(tmp_path / "old").test.images[torch.arange(9)]
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert torch.equal(stored_at(tmp_path / "new").test.images[torch.arange(9)], before)


def test_the_same_weights_under_another_key_have_another_digest(tmp_path: Path) -> None:
    for name in ("big_model-a", "big_model-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    a, b = (pipeline._big_model_digest(str(tmp_path / name)) for name in ("big_model-a", "big_model-b"))
    assert a != b


def test_a_search_with_unlabelled_images_uses_the_big_model_of_one_without(tmp_path: Path) -> None:
    write_images(tmp_path / "others", 9, size=(8, 8), mode="L")
    few = ["data.train_limit=100", f"data.unlabelled={tmp_path / 'others'}"]
    whole, config = load_config(None, []), load_config(None, few)
    key = big_model_key(whole.settings(), 0, load_data(whole.settings().data))
    stored = tmp_path / f"big_model-{key}"
    figures = {"name": "F", "bytes": 1, "parameters": 1, "val_accuracy": 0.9, "test_accuracy": 0.9}
    with remote_folders.write_folder(str(stored)) as folder:
        (folder / "figures.json").write_text(json.dumps(figures))
    data, queue = load_data(config.settings().data), None
    places, _ = pipeline.prepare_big_models(config, data, "", str(tmp_path), queue, Silent())
    assert places == (str(stored),)
