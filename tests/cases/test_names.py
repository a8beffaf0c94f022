"""Names of classes, parts and columns as people and systems write them."""

import shutil
import unicodedata

import pytest

from tests.data import writers
from tkd_search.data import DataBundle, DataSettings, load_data
from tkd_search.errors import UserError
from tkd_search.export.scoring import labelled_files

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path):
    """Class folders of five images each below ``train/``."""
    writers.write_image_folder(tmp_path, {"train": 5})
    return tmp_path


def load(path, name="imagefolder") -> DataBundle:
    return load_data(DataSettings(name=name, path=str(path), size=12))


def with_test(folder, **renamed):
    """Add ``test/`` of two other images a class, some of which have other names."""
    writers.write_image_folder(folder, {"test": 2})
    for name, other in renamed.items():
        (folder / "test" / name).rename(folder / "test" / other)


# nodejs/node#2165, unmade/shelf-back#50: macOS stores é as two characters
def test_a_class_has_one_name_in_both_forms_of_unicode(folder):
    (folder / "train" / "cat").rename(folder / "train" / COMPOSED)
    with_test(folder, cat=DECOMPOSED, dog="dog ")
    data = load(folder)
    assert data.classes == (COMPOSED, "dog", "eel")
    assert data.notes == ()
    assert len(data.test) == 6
    assert {label for _, label in labelled_files(folder / "test", data.classes)} == {0, 1, 2}


# A class folder renamed in one part: the refusal names the class that was meant.
def test_an_unknown_class_is_refused_with_the_nearest_name(folder):
    with_test(folder, cat="Cat")
    with pytest.raises(UserError, match=r"(?s)test/Cat.*did you mean cat\?"):
        load(folder)


# Letters are such classes on purpose, so that they are only said.
def test_classes_that_differ_in_case_alone_are_said(folder):
    writers.write_images(folder / "train" / "Cat", 5, seed=7)
    (note,) = load(folder).notes
    assert "only in upper and lower case: Cat and cat" in note


# Public sets of brain scans have Training/ and Testing/; others Train/, Test/, Valid/.
@pytest.mark.parametrize(("train", "test"), [("Training", "Testing"), ("TRAIN", "Test"), ("train", "TEST")])
def test_parts_are_found_in_other_spellings(folder, train, test):
    with_test(folder)
    whole = load(folder).digest
    (folder / "train").rename(folder / "moved")
    (folder / "moved").rename(folder / train)
    (folder / "test").rename(folder / test)
    assert load(folder).digest == whole


def test_two_folders_of_one_part_are_refused(folder):
    with_test(folder)
    shutil.copytree(folder / "test", folder / "Testing")
    with pytest.raises(UserError, match="Testing/ and test/"):
        load(folder)


# fastai/fastai#1552: the images of test/ became one more class named test
def test_a_part_beside_class_folders_is_refused(folder):
    with_test(folder)
    for name in ("cat", "dog", "eel"):
        (folder / "train" / name).rename(folder / name)
    (folder / "train").rmdir()
    with pytest.raises(UserError, match=r"(?s)test: found class folders of a part.*move"):
        load(folder)


def test_images_that_are_not_read_are_said(folder):
    shutil.copy(folder / "train" / "cat" / "000.png", folder / "train" / "loose.png")
    shutil.copytree(folder / "train", folder / "test2")
    (folder / "notes").mkdir()
    (note,) = load(folder).notes
    assert f"1 images of {folder}/train outside its class folders" in note
    assert f"images in {folder}/test2" in note
    assert "notes" not in note


def table(folder, labels, separator=",", path="train/cat/{:03}.png", head=("image", "label")):
    """Write a table of the images of train/cat with these labels in turn."""
    rows = [head, *((path.format(i), labels[i % len(labels)]) for i in range(10))]
    file = folder / "t.csv"
    file.write_text("".join(f"{separator.join(row)}\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def images(tmp_path):
    writers.write_images(tmp_path / "train" / "cat", 10)
    return tmp_path


# HumanSignal/label-studio#8569: spreadsheets of many countries write semicolons
@pytest.mark.parametrize("separator", [";", "\t", "|", ", "])
def test_tables_of_spreadsheets_are_read(images, separator):
    assert load(table(images, ["cat", "dog"], separator), "table").classes == ("cat", "dog")


# Labels typed by hand, exported by two systems, or true and false.
@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["cat", "cat ", "dog"], ("cat", "dog")),
        ([COMPOSED, DECOMPOSED, "dog"], (COMPOSED, "dog")),
        (["True", "False"], ("False", "True")),
        (["0.0", "1.0"], ("0", "1")),
    ],
)
def test_labels_that_read_alike_are_one_class(images, labels, classes):
    assert load(table(images, labels), "table").classes == classes


# CellProfiler/CellProfiler#1385, voxel51/fiftyone#4304: a table made on Windows, read on Linux
@pytest.mark.parametrize("path", ["train\\cat\\{:03}.png", ".\\train\\cat/{:03}.png", " train/cat/{:03}.png"])
def test_paths_of_windows_are_read(images, path):
    assert len(load(table(images, ["cat", "dog"], path=path), "table").train) > 0


def test_a_split_may_be_written_as_a_title(images):
    file = table(images, ["cat", "dog"])
    rows = file.read_text(encoding="utf-8").splitlines()
    parts = ["split", *["Train"] * 8, "TEST ", "Testing"]
    file.write_text("".join(f"{a},{b}\n" for a, b in zip(rows, parts, strict=True)), encoding="utf-8")
    assert len(load(file, "table").test) == 2


def test_a_table_in_another_encoding_is_refused_with_a_hint(images):
    file = table(images, ["café", "dog"])
    for encoding in ("latin-1", "utf-16"):
        file.write_bytes("image,label\nx,café\n".encode(encoding))
        with pytest.raises(UserError, match="save it as UTF-8"):
            load(file, "table")


def test_a_column_without_images_is_named(images):
    with pytest.raises(UserError, match=r"no images with labels to train on \(.*row 1: no image\)"):
        load(table(images, ["cat"], path=""), "table")
