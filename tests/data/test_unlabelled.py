"""Images without labels beside every kind of source."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.data import writers
from tkd_search.data import DataBundle, DataSettings, load_data
from tkd_search.data.prepared_files import load_prepared, save_prepared
from tkd_search.distill.interfaces import UNLABELLED
from tkd_search.errors import UserError
from tkd_search.storage import remote_folders


@pytest.fixture
def folder(tmp_path: Path) -> DataSettings:
    """Twelve labelled images of each of three classes, and twenty others in two folders."""
    writers.write_image_folder(tmp_path / "labelled", {"train": 12})
    for place, seed in (("a/b", 1001), ("c", 1002)):
        writers.write_images(tmp_path / "others" / place, 10, seed=seed)
    return DataSettings(
        name="imagefolder", path=str(tmp_path / "labelled"), unlabelled=str(tmp_path / "others")
    )


def test_a_limit_holds_for_labelled_images_alone(folder: DataSettings) -> None:
    data = load_data(dataclasses.replace(folder, train_limit=9))
    assert (len(data.train), data.unlabelled) == (29, 20)
    assert data.train.labels[9:].unique().tolist() == [UNLABELLED]


def test_images_chosen_evenly_are_labelled(folder: DataSettings) -> None:
    data = load_data(folder)
    for count in (3, 500):
        chosen = data.train.evenly(count)
        assert len(chosen) == min(count, len(data.train) - 20)
        assert UNLABELLED not in chosen.labels


def test_a_table_of_images_without_labels(folder: DataSettings, tmp_path: Path) -> None:
    files = sorted(map(str, (tmp_path / "others").rglob("*.png")))
    pd.DataFrame({"image": [str(Path(f).relative_to(tmp_path)) for f in files]}).to_csv(tmp_path / "t.csv")
    content = [{"bytes": Path(f).read_bytes(), "path": None} for f in files]
    pd.DataFrame({"image": content}).to_parquet(tmp_path / "t.parquet")
    wanted = load_data(folder)
    for name in ("t.csv", "t.parquet"):
        data = load_data(dataclasses.replace(folder, unlabelled=str(tmp_path / name)))
        assert data.digest == wanted.digest


def test_tables_are_fetched_with_the_query_of_their_place(
    folder: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted((tmp_path / "labelled").rglob("*.png"))
    frame = pd.DataFrame({"image": files, "label": [file.parent.name for file in files]})
    frame.to_csv(tmp_path / "t.csv")
    fetched: list[str] = []
    monkeypatch.setattr(remote_folders, "fetch_tree", lambda where: fetched.append(where) or tmp_path)
    place = "s3://b/d/t.csv?endpoint_override=http://h:9000"
    load_data(DataSettings(name="table", path=place, unlabelled=place))
    assert fetched == ["s3://b/d?endpoint_override=http://h:9000"] * 2


def test_rows_without_an_image_and_damaged_files_count_as_broken(
    folder: DataSettings, tmp_path: Path
) -> None:
    (tmp_path / "others" / "c" / "001.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 20 images cannot be read.*001\.png"):
        load_data(folder)
    frame = pd.DataFrame({"image": ["others/a/b/000.png", None, "others/a/b/001.png"]})
    frame.to_csv(tmp_path / "t.csv")
    with pytest.raises(UserError, match=r"1 of 3 images cannot be read: .*t.csv, row 2: no image"):
        load_data(dataclasses.replace(folder, unlabelled=str(tmp_path / "t.csv")))


def test_few_broken_images_may_be_left_out(folder: DataSettings, tmp_path: Path) -> None:
    writers.write_images(tmp_path / "others" / "many", 80, seed=1003)
    (tmp_path / "others" / "c" / "001.png").write_bytes(b"no image")
    data = load_data(dataclasses.replace(folder, on_error="skip"))
    assert data.unlabelled == 99
    assert any("1 of 100 images" in note for note in data.notes)


def test_many_unlabelled_images_do_not_hide_broken_labelled_ones(
    folder: DataSettings, tmp_path: Path
) -> None:
    writers.write_images(tmp_path / "others" / "many", 280, seed=1003)
    next((tmp_path / "labelled").rglob("*.png")).write_bytes(b"no image")
    with pytest.raises(UserError, match="1 of 36 images"):
        load_data(dataclasses.replace(folder, on_error="skip"))


def test_images_that_are_also_measured_are_said(folder: DataSettings, tmp_path: Path) -> None:
    assert load_data(folder).notes == ()
    whole = dataclasses.replace(folder, unlabelled=str(tmp_path))
    (note,) = load_data(whole).notes
    data = load_data(folder)
    for part in ("validation", "test"):
        assert f"{len(data.splits()[part])} of {part} in unlabelled" in note
    assert "of unlabelled in train" not in note


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("gone", ["nothing there", "folder of images"]),
        ("file.txt", ["not a folder or a table"]),
        ("empty", ["without images"]),
        ("labelled/train/extra", ["labelled/train", "move it"]),
        ("labelled/train/extra/pool", ["labelled/train", "move it"]),
    ],
)
def test_wrong_places_are_refused(folder: DataSettings, tmp_path: Path, place: str, words: list[str]) -> None:
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    writers.write_images(tmp_path / "labelled" / "train" / "extra", 2)
    writers.write_images(tmp_path / "labelled" / "train" / "extra" / "pool", 2)
    with pytest.raises(UserError) as caught:
        load_data(dataclasses.replace(folder, unlabelled=str(tmp_path / place)))
    assert caught.value.where == "data.unlabelled"
    assert all(word in str(caught.value) for word in words)


def test_another_size_needs_data_size(folder: DataSettings, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "others" / "wide.png")
    with pytest.raises(UserError, match=r"data\.size.*30 × 20"):
        load_data(folder)
    assert load_data(dataclasses.replace(folder, size=12)).unlabelled == 21


class TestSetsInMemory:
    """Digits, as any set that is not made of files, hold unlabelled images in memory too."""

    def digits(self, place: Path, **settings: Any) -> DataBundle:
        return load_data(DataSettings(unlabelled=str(place), **settings))

    def test_they_follow_the_digits(self, tmp_path: Path) -> None:
        writers.write_images(tmp_path, 5)
        alone, data = load_data(DataSettings(size=16)), self.digits(tmp_path, size=16)
        assert (data.unlabelled, data.channels, data.size) == (5, 1, 16)
        assert torch.equal(data.train.images[:-5], alone.train.images[:])
        assert (data.mean, data.std) == (alone.mean, alone.std)

    def test_another_size_and_too_many_are_refused(self, tmp_path: Path) -> None:
        writers.write_images(tmp_path, 60)
        with pytest.raises(UserError, match=r"data\.size"):
            self.digits(tmp_path)
        with pytest.raises(UserError, match="memory_budget_mb = 16"):
            self.digits(tmp_path, size=600, memory_budget_mb=16)


@pytest.mark.parametrize(("scheme", "disk"), [("file://", 0), ("file://", None), ("", 0)])
def test_every_node_fetches_images_of_both_places_and_decodes_them_where_the_disk_keeps_them(
    folder: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, disk: float | None
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "driver").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("TKD_CACHE", str(tmp_path / "driver"))
    settings = dataclasses.replace(
        folder,
        path=f"file://{folder.path}",
        unlabelled=f"{scheme}{folder.unlabelled}",
        size=400,
        memory_budget_mb=16,
        disk_budget_gb=disk,
    )
    data = load_data(settings)
    assert not isinstance(data.train.images, torch.Tensor)
    save_prepared(data, tmp_path / "prepared")
    index = torch.tensor([0, len(data.train) - 1])
    expected = data.train.images[index]
    (tmp_path / "disk").rename(tmp_path / "another machine")
    monkeypatch.setenv("TKD_CACHE", str(tmp_path / "node" / "at another depth"))
    assert torch.equal(load_prepared(tmp_path / "prepared").train.images[index], expected)
    images = load_prepared(tmp_path / "prepared").train.images
    files = (images.source if disk is None else images).files
    assert any(Path(name).is_absolute() for name in files) == (scheme == "")
