"""Broken images, images that occur twice, links, and files that only look like images."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.data import writers
from tkd_search.data import DataBundle, DataSettings, Split, load_data
from tkd_search.data.assemble import assemble
from tkd_search.data.prepared_files import load_prepared, save_prepared
from tkd_search.data.sources.raw_data import RawData
from tkd_search.errors import UserError


@pytest.fixture(params=["loaded", "streamed"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> DataSettings:
    """Settings of the folder ``tmp_path``, whose images are held in memory or streamed."""
    chosen = DataSettings(name="imagefolder", path=str(tmp_path), size=12)
    if request.param == "loaded":
        return chosen
    # At 400 pixels a side, 40 images take more than 16 MiB.
    return dataclasses.replace(chosen, size=400, memory_budget_mb=16, mean=(0.5,) * 3, std=(0.5,) * 3)


def names(data: DataBundle) -> set[str]:
    return {name for split in data.splits().values() for name in split.names}


class TestBrokenImages:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        writers.write_image_folder(tmp_path, {"train": 60, "test": 40})
        return tmp_path

    def spoil(self, folder: Path, count: int, part: str = "test") -> list[Path]:
        spoilt = sorted((folder / part).rglob("*.png"))[:count]
        for file in spoilt:
            file.write_bytes(file.read_bytes()[:100])
        return spoilt

    @pytest.mark.parametrize("part", ["train", "test"])
    def test_all_are_counted_and_ten_named(self, folder: Path, settings: DataSettings, part: str) -> None:
        spoilt = self.spoil(folder, 12, part)
        with pytest.raises(UserError) as caught:
            load_data(settings)
        assert caught.value.where == f"data.path = {folder}"
        assert "12 of 300 images cannot be read" in caught.value.found
        assert [str(file) in caught.value.found for file in spoilt] == [True] * 10 + [False] * 2
        assert "data.on_error=skip" in caught.value.hint

    def test_up_to_one_percent_are_left_out(self, folder: Path, settings: DataSettings) -> None:
        whole = load_data(settings)
        spoilt = self.spoil(folder, 3)
        left = load_data(dataclasses.replace(settings, on_error="skip"))
        (note,) = left.notes
        assert "3 of 300 images cannot be read and are left out" in note
        assert all(str(file) in note for file in spoilt)
        assert names(whole) - names(left) == {str(file.relative_to(folder)) for file in spoilt}
        assert torch.equal(left.test.images[torch.arange(117)], whole.test.images[torch.arange(3, 120)])
        assert torch.equal(left.test.labels, whole.test.labels[3:])

    def test_more_than_one_percent_are_refused(self, folder: Path, settings: DataSettings) -> None:
        self.spoil(folder, 4)
        with pytest.raises(UserError, match="at most 1%"):
            load_data(dataclasses.replace(settings, on_error="skip"))

    def test_a_repaired_image_gives_the_same_data(self, folder: Path, settings: DataSettings) -> None:
        whole = load_data(settings).digest
        shutil.copytree(folder / "test", folder / ".copy")
        self.spoil(folder, 1)
        with pytest.raises(UserError):
            load_data(settings)
        shutil.rmtree(folder / "test")
        (folder / ".copy").rename(folder / "test")
        assert load_data(settings).digest == whole

    def test_a_folder_of_broken_images_alone_is_refused(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.png").write_text("no image")
        with pytest.raises(UserError, match="2 of 2 images cannot be read"):
            load_data(DataSettings(name="imagefolder", path=str(tmp_path)))


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        writers.write_image_folder(tmp_path / "photos", {"train": 5})
        return tmp_path / "photos"

    def load(self, folder: Path) -> DataBundle:
        return load_data(DataSettings(name="imagefolder", path=str(folder)))

    def test_links_are_followed_and_cycles_end(self, folder: Path, tmp_path: Path) -> None:
        writers.write_images(tmp_path / "elsewhere", 12, seed=77)
        (folder / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "back").symlink_to(folder / "train" / "cat")
        (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
        (folder / "train" / "yak").symlink_to(tmp_path / "elsewhere")
        data = self.load(folder)
        assert data.classes == ("cat", "dog", "eel", "yak")
        counts = torch.zeros(4, dtype=torch.int64)
        for split in data.splits().values():
            counts += torch.bincount(split.labels, minlength=4)
        assert counts.tolist() == [5 + 12, 5, 5, 12 + 5]

    @pytest.mark.parametrize("budget", [4096, 16])
    def test_names_that_are_not_utf_8_are_read_and_shown_with_replacements(
        self, folder: Path, tmp_path: Path, budget: int
    ) -> None:
        latin = Path(os.fsdecode("café".encode("latin-1")))
        (folder / "train" / "cat").rename(folder / "train" / latin)
        (folder / "train" / latin / "000.png").rename(folder / "train" / latin / f"{latin}.png")
        shutil.copytree(folder / "train", folder / "test")
        settings = DataSettings(
            name="imagefolder", path=str(folder), size=700 if budget == 16 else 12, memory_budget_mb=budget
        )
        data = load_data(settings)
        assert data.classes == ("caf�", "dog", "eel")
        assert "test/caf�/" in data.notes[0]
        save_prepared(data, tmp_path / "prepared")
        back = load_prepared(tmp_path / "prepared")
        index = torch.arange(len(data.test))
        assert back.classes == data.classes
        assert torch.equal(back.test.images[index], data.test.images[index])
        (folder / "train" / latin / f"{latin}.png").write_text("no image")
        with pytest.raises(UserError, match=r"caf�/caf�\.png"):
            load_data(settings)

    def test_copies_that_systems_make_are_left_out_and_counted(self, folder: Path) -> None:
        before = self.load(folder)
        for place in ("train/cat/@eaDir/000.png", "train/__MACOSX", "train/dog/.hidden"):
            writers.write_images(folder / place, 2)
        after = self.load(folder)
        assert after.digest == before.digest
        assert after.notes == ("data: left out 2 files in @eaDir/",)

    def test_formats_that_cannot_be_read_are_counted(self, folder: Path) -> None:
        for name in ("a.heic", "b.HEIC", "c.svg", "notes.txt"):
            (folder / "train" / "dog" / name).write_bytes(b"content")
        assert self.load(folder).notes == ("data: left out 2 .heic files, 1 .svg files",)

    @pytest.mark.parametrize("suffix", [".avif", ".jp2"])
    def test_new_formats_of_pillow_are_read(self, folder: Path, suffix: str) -> None:
        before = sum(map(len, self.load(folder).splits().values()))
        writers.write_images(folder / "train" / "dog", 3, suffix=suffix)
        assert sum(map(len, self.load(folder).splits().values())) == before + 3


class TestDuplicates:
    def test_images_of_several_parts_are_counted_and_named(
        self, tmp_path: Path, settings: DataSettings
    ) -> None:
        writers.write_image_folder(tmp_path, {"train": 14, "val": 14, "test": 14})
        shutil.copy(tmp_path / "train/cat/003.png", tmp_path / "test/cat/again.png")
        shutil.copy(tmp_path / "train/dog/002.png", tmp_path / "test/eel/other_label.png")
        shutil.copy(tmp_path / "val/dog/002.png", tmp_path / "test/dog/001.png")
        (note,) = load_data(settings).notes
        assert "2 of test in train" in note
        assert "1 of test in validation" in note
        assert "test/cat/again.png = train/cat/003.png" in note
        assert "test/eel/other_label.png = train/dog/002.png" in note

    def test_at_most_three_pairs_are_named(self, tmp_path: Path, settings: DataSettings) -> None:
        writers.write_image_folder(tmp_path, {"train": 14, "val": 14})
        shutil.copytree(tmp_path / "train", tmp_path / "test")
        (note,) = load_data(settings).notes
        assert "42 of test in train" in note
        assert note.count(" = ") == 3

    def test_the_same_image_twice_in_training_is_no_duplicate(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5, "val": 4, "test": 4})
        shutil.copy(tmp_path / "train/cat/003.png", tmp_path / "train/cat/again.png")
        assert load_data(DataSettings(name="imagefolder", path=str(tmp_path))).notes == ()

    def test_held_out_images_and_sources_without_names_are_compared_too(self) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=generator)
        split = Split(torch.cat([images, images]), torch.arange(60) % 3)
        (note,) = assemble(RawData(train=split, classes=("a", "b", "c")), DataSettings()).notes
        assert "of test in train" in note
        assert "test image" in note


def test_one_image_of_colour_among_many_grey_ones_is_enough(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(100):
            Image.new("L", (8, 8), number).save(tmp_path / "photos" / label / f"{number:03}.png")
    assert load_data(DataSettings(name="imagefolder", path=str(tmp_path / "photos"))).channels == 1
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "photos" / "b" / "050.png")
    assert load_data(DataSettings(name="imagefolder", path=str(tmp_path / "photos"))).channels == 3
