"""Searches with data, bank, checkpoints and results on S3: a real search against moto's S3 server."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tkd_search import storage
from tkd_search.errors import UserError
from tkd_search.storage import remote_folders

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]

BUCKET = "searches"
SMALL = [
    "--set=search.trials=3", "--set=search.startup_trials=2", "--set=training.epochs=3",
    "--set=big_model.epochs=2", "--set=training.batch_size=256",
    "--set=student.width={float: [0.1, 0.2]}", "--set=data.views=1",
    "--set=resources.max_concurrent=2", "--set=tracking.uri=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def s3(aws: str) -> str:
    """URI of a folder in a bucket of moto; the URI contains the server's address."""
    import boto3

    boto3.client("s3").create_bucket(Bucket=BUCKET)
    return f"s3://{BUCKET}/tkd?scheme=http&endpoint_override={aws.removeprefix('http://')}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def keys(prefix: str = "") -> dict[str, tuple[int, str]]:
    """Return the bucket's objects: key → size and time of writing."""
    import boto3

    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    found = [entry for page in pages for entry in page.get("Contents", [])]
    return {entry["Key"]: (entry["Size"], str(entry["LastModified"])) for entry in found}


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tkd_search.run", *arguments], cwd=folder, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "120"},
    )  # fmt: skip
    return done.returncode, done.stdout


def test_files_and_folders_on_s3(s3: str, cache: Path, tmp_path: Path) -> None:
    place = storage.below(s3, "parts", "bank-1")
    assert not remote_folders.verify_folder(place)
    with remote_folders.write_folder(place) as folder:
        (folder / "rows").write_bytes(b"r" * 20_000_000)  # more than one part of an upload
    assert remote_folders.verify_folder(place)
    assert (remote_folders.fetch_folder(place) / "rows").stat().st_size == 20_000_000
    file = storage.below(s3, "parts", "checkpoint.pt")
    assert storage.read_bytes(file) is None
    storage.write_bytes(file, b"state")
    assert storage.read_bytes(file) == b"state"
    storage.delete(file)
    assert storage.read_bytes(file) is None
    tree = remote_folders.fetch_tree(storage.below(s3, "parts"))
    assert (tree / "bank-1" / "rows").stat().st_size == 20_000_000
    assert remote_folders.origin(tree / "bank-1") == (storage.below(s3, "parts"), "bank-1")


def test_missing_bucket_is_refused_before_anything_starts(s3: str, tmp_path: Path) -> None:
    code, output = run(tmp_path, f"--set=storage={s3.replace(BUCKET, 'missing')}")
    assert code == 2, output
    assert "Traceback" not in output
    assert "doctor --storage" in output
    assert not list(tmp_path.rglob("*.journal"))


def test_search_on_s3_is_extended_on_another_machine_with_the_same_bank(
    s3: str, cache: Path, tmp_path: Path
) -> None:
    code, output = run(tmp_path, *SMALL, f"--set=storage={s3}", "--name", "first")
    assert code == 0, output
    summary = json.loads((tmp_path / "runs" / "first" / "summary.json").read_text())
    assert summary["trials"]["completed"] + summary["trials"]["stopped_early"] == 3
    stored = keys("tkd/")
    for name in ("summary.json", "pareto.csv", "study.journal", "config.yaml"):
        assert f"tkd/runs/first/{name}" in stored
    for member in summary["front"]:
        assert stored[f"tkd/runs/first/{member['path']}/model.safetensors"][0] == member["bytes"]
    assert any(key.startswith("tkd/cache/big_model-") and key.endswith("model.safetensors") for key in stored)
    weights = [key for key in stored if "/trials/" in key and key.endswith("model.safetensors")]
    assert len(weights) >= summary["trials"]["completed"]
    if not summary["trials"]["stopped_early"]:  # a worker that learns late of its stop may save once more
        assert not any("/trials/" in key and "checkpoint" in key for key in stored)
    assert not list((tmp_path / "runs").rglob("*.pt")), "no checkpoint depends on this machine's disk"
    assert not (tmp_path / "runs" / ".cache").exists()
    shared = {key: value for key, value in stored.items() if key.startswith("tkd/cache/")}
    assert sum("/bank-" in key and key.endswith("bank.safetensors") for key in shared) == 1

    # Without runs and cache, as on another machine, the command extends the finished search.
    for folder in (tmp_path / "runs", cache):
        shutil.rmtree(folder)
    code, output = run(tmp_path, *SMALL, f"--set=storage={s3}", "--name", "first", "--set=search.trials=4")
    assert code == 0, output
    extended = json.loads((tmp_path / "runs" / "first" / "summary.json").read_text())
    assert extended["trials"]["total"] == 4
    assert keys("tkd/cache/") == shared, "F and bank were reused"
    assert json.loads(read(s3, "first", "summary.json")) == extended


def read(s3: str, name: str, file: str) -> bytes:
    content = storage.read_bytes(storage.below(s3, "runs", name, file))
    assert content is not None
    return content


def test_each_node_reads_a_data_set_from_s3(s3: str, cache: Path, tmp_path: Path) -> None:
    import torch

    from tests.data.writers import write_image_folder
    from tkd_search.data import DataSettings, load_data
    from tkd_search.data.prepared_files import load_prepared, save_prepared

    photos = tmp_path / "photos"
    write_image_folder(photos, {"train": 40, "test": 9}, size=(64, 64))
    for file in photos.rglob("*.*"):
        storage.put_file(file, storage.below(s3, "data", *file.relative_to(photos).parts))
    where, third = storage.below(s3, "data"), (0.5, 0.5, 0.5)
    held = load_data(DataSettings(name="imagefolder", path=where))
    assert held.digest == load_data(DataSettings(name="imagefolder", path=str(photos))).digest
    # At 1,600 pixels a side the images exceed the memory budget and are read from files when needed.
    streamed = load_data(
        DataSettings(name="imagefolder", path=where, size=1600, memory_budget_mb=16, mean=third, std=third)
    )
    save_prepared(streamed, tmp_path / "prepared")
    first = streamed.train.images[torch.tensor([0])]
    shutil.rmtree(cache)  # another node
    there = load_prepared(tmp_path / "prepared")
    assert torch.equal(there.train.images[torch.tensor([0])], first)
    with pytest.raises(UserError, match="nothing"):
        load_data(DataSettings(name="imagefolder", path=storage.below(s3, "nothing")))
