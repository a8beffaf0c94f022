"""Every source in its real format: images are read as written, damaged files are refused by name."""

import gzip
import pickle
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data import writers
from tkd_search.data import DataBundle, DataSettings, load_data
from tkd_search.errors import UserError

DIGITS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
"""Number of images of each digit in the whole set."""


def load(name: str, path: Path | None = None, **settings: object) -> DataBundle:
    return load_data(DataSettings(name=name, path=None if path is None else str(path), **settings))


def refused(name: str, path: Path | None, **settings: object) -> UserError:
    with pytest.raises(UserError) as caught:
        load(name, path, **settings)
    return caught.value


def pixels(split: object) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


class TestDigits:
    def test_every_digit_is_in_one_part(self) -> None:
        data = load("digits")
        assert sum(len(split) for split in data.splits().values()) == 1797
        assert (data.channels, data.size, data.num_classes) == (1, 8, 10)
        assert data.train.images.max() == 255

    def test_the_classes_are_balanced_in_every_part(self) -> None:
        for split in load("digits").splits().values():
            share = len(split) / 1797
            for label, count in enumerate(torch.bincount(split.labels, minlength=10).tolist()):
                assert abs(count - share * DIGITS[label]) <= 2


class TestMnist:
    @pytest.mark.parametrize("place", ["", "MNIST/raw", "raw", "FashionMNIST/raw"])
    @pytest.mark.parametrize("zipped", [False, True])
    def test_it_is_found_in_every_known_folder(self, tmp_path: Path, place: str, zipped: bool) -> None:
        writers.write_mnist(tmp_path / place, zipped=zipped)
        data = load("mnist", tmp_path)
        assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 20)
        written = {image.tobytes() for image in writers.random_images(20, 28, 28, seed=1)}
        assert pixels(data.test) == written
        assert torch.equal(data.test.labels, torch.arange(20) % 10)
        assert pixels(data.train) | pixels(data.validation) == {
            image.tobytes() for image in writers.random_images(40, 28, 28, seed=0)
        }

    def test_file_names_with_a_dot_are_found(self, tmp_path: Path) -> None:
        writers.write_mnist(tmp_path, dot=True)
        assert len(load("mnist", tmp_path).test) == 20

    @pytest.mark.parametrize(
        ("change", "part"),
        [
            (lambda content: content[:-1], "bytes of data"),
            (lambda content: content + b"x", "bytes of data"),
            (lambda content: b"\x00\x00\x0d\x03" + content[4:], "begins with"),
            (lambda content: content[:6], "header"),
        ],
    )
    def test_a_damaged_file_is_named(self, tmp_path: Path, change: object, part: str) -> None:
        writers.write_mnist(tmp_path)
        victim = tmp_path / "t10k-images-idx3-ubyte"
        victim.write_bytes(change(victim.read_bytes()))
        error = refused("mnist", tmp_path)
        assert error.where == str(victim)
        assert part in error.found

    def test_a_truncated_gzip_is_named(self, tmp_path: Path) -> None:
        writers.write_mnist(tmp_path, zipped=True)
        victim = tmp_path / "train-images-idx3-ubyte.gz"
        victim.write_bytes(victim.read_bytes()[:500])
        assert refused("mnist", tmp_path).where == str(victim)

    def test_a_plain_file_named_gz_is_named(self, tmp_path: Path) -> None:
        writers.write_mnist(tmp_path, zipped=True)
        victim = tmp_path / "train-labels-idx1-ubyte.gz"
        victim.write_bytes(gzip.decompress(victim.read_bytes()))
        assert refused("mnist", tmp_path).where == str(victim)

    def test_different_numbers_of_images_and_labels_are_refused(self, tmp_path: Path) -> None:
        writers.write_mnist(tmp_path)
        victim = tmp_path / "train-labels-idx1-ubyte"
        victim.write_bytes(writers.idx(writers.balanced(39, 10)))
        error = refused("mnist", tmp_path)
        assert error.where == str(victim)
        assert "39 labels for the 40 images" in error.found


class TestCifar:
    @pytest.mark.parametrize("protocol", [0, 2, 4])
    @pytest.mark.parametrize("place", ["", "cifar-10-batches-py"])
    def test_python_files(self, tmp_path: Path, protocol: int, place: str) -> None:
        writers.write_cifar10_python(tmp_path / place, protocol=protocol)
        data = load("cifar10", tmp_path)
        assert (len(data.train), len(data.validation), len(data.test)) == (80, 20, 20)
        assert data.classes == tuple(f"name{i}" for i in range(10))
        assert pixels(data.test) == {image.tobytes() for image in writers.random_images(20, 3072, seed=5)}

    def test_binary_and_python_files_give_the_same_data(self, tmp_path: Path) -> None:
        writers.write_cifar10_python(tmp_path / "python")
        writers.write_cifar10_binary(tmp_path / "binary" / "cifar-10-batches-bin")
        one, other = load("cifar10", tmp_path / "python"), load("cifar10", tmp_path / "binary")
        assert one.digest == other.digest
        assert one.classes == other.classes

    def test_cifar100_is_the_same_in_both_forms(self, tmp_path: Path) -> None:
        writers.write_cifar100_python(tmp_path / "python" / "cifar-100-python")
        writers.write_cifar100_binary(tmp_path / "binary")
        one, other = load("cifar100", tmp_path / "python"), load("cifar100", tmp_path / "binary")
        assert one.num_classes == other.num_classes == 100
        assert torch.equal(one.test.labels, torch.arange(300) % 100)
        assert torch.equal(one.test.images, other.test.images)

    def test_class_folders(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5, "test": 2}, size=(32, 32))
        assert len(load("cifar10", tmp_path).test) == 6

    def test_code_in_a_pickle_does_not_run(self, tmp_path: Path) -> None:
        writers.write_cifar10_python(tmp_path)
        witness = tmp_path / "witness"
        victim = tmp_path / "data_batch_3"
        victim.write_bytes(pickle.dumps({b"data": Bomb(witness), b"labels": []}))
        error = refused("cifar10", tmp_path)
        assert error.where == str(victim)
        assert "open" in error.found
        assert not witness.exists()

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"rubbish",
            pickle.dumps([1, 2]),
            pickle.dumps({b"labels": [1]}),
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}),
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]}),
            pickle.dumps({b"data": np.zeros((2, 30), np.uint8), b"labels": [1, 2]}),
            pickle.dumps({b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 2]}),
            pickle.dumps({b"data": np.array([{}, {}], object), b"labels": [1, 2]}),
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": ["a", "b"]}),
        ],
    )
    def test_damaged_files_are_named(self, tmp_path: Path, content: bytes) -> None:
        writers.write_cifar10_python(tmp_path)
        (tmp_path / "test_batch").write_bytes(content)
        assert refused("cifar10", tmp_path).where == str(tmp_path / "test_batch")

    def test_a_truncated_pickle_and_a_truncated_binary_are_named(self, tmp_path: Path) -> None:
        writers.write_cifar10_python(tmp_path / "python")
        writers.write_cifar10_binary(tmp_path / "binary")
        for folder, name in (("python", "data_batch_2"), ("binary", "data_batch_2.bin")):
            victim = tmp_path / folder / name
            victim.write_bytes(victim.read_bytes()[:-100])
            assert refused("cifar10", tmp_path / folder).where == str(victim)

    def test_a_set_without_class_names_has_numbers_as_names(self, tmp_path: Path) -> None:
        writers.write_cifar10_python(tmp_path)
        (tmp_path / "batches.meta").unlink()
        assert load("cifar10", tmp_path).classes == tuple("0123456789")


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.witness), "w")


class TestTinyImageNet:
    @pytest.mark.parametrize("place", ["", "tiny-imagenet-200"])
    def test_the_official_layout_with_any_number_of_classes(self, tmp_path: Path, place: str) -> None:
        writers.write_tiny_imagenet(tmp_path / place, ["n001", "n002", "n003", "n009"])
        data = load("tinyimagenet", tmp_path)
        assert data.classes == ("goldfish", "crane (n002)", "crane (n003)", "n009")
        assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 12)
        assert (data.channels, data.size) == (3, 64)
        assert torch.equal(torch.bincount(data.test.labels), torch.full((4,), 3))

    def test_annotations_of_missing_classes_are_skipped(self, tmp_path: Path) -> None:
        writers.write_tiny_imagenet(tmp_path, ["n001", "n002", "n003"])
        (tmp_path / "wnids.txt").write_text("n001\nn003\n")
        data = load("tinyimagenet", tmp_path)
        assert len(data.test) == 6
        assert data.num_classes == 2

    def test_a_missing_class_is_named(self, tmp_path: Path) -> None:
        writers.write_tiny_imagenet(tmp_path, ["n001", "n002"])
        (tmp_path / "wnids.txt").write_text("n001\nn002\nn777\n")
        assert "n777" in refused("tinyimagenet", tmp_path).where

    @pytest.mark.parametrize("below", ["", "images"])
    def test_validation_images_sorted_into_class_folders_are_the_test_part(
        self, tmp_path: Path, below: str
    ) -> None:
        writers.write_tiny_imagenet(tmp_path, ["n001", "n002"])
        annotated = load("tinyimagenet", tmp_path)
        (tmp_path / "val" / "val_annotations.txt").unlink()
        for number, wnid in enumerate(("n001", "n002")):
            folder = tmp_path / "val" / wnid / below
            folder.mkdir(parents=True)
            for file in (tmp_path / "val" / "images").glob(f"val_{number}_*"):
                file.rename(folder / file.name)
        assert load("tinyimagenet", tmp_path).digest == annotated.digest

    def test_the_official_layout_read_as_class_folders_names_the_right_source(self, tmp_path: Path) -> None:
        writers.write_tiny_imagenet(tmp_path, ["n001", "n002"])
        assert "data.name=tinyimagenet" in refused("imagefolder", tmp_path).hint

    @pytest.mark.parametrize("line", ["gone.JPEG\tn001\t0\t0\t1\t1", "nonsense"])
    def test_a_wrong_annotation_is_named_by_its_line(self, tmp_path: Path, line: str) -> None:
        writers.write_tiny_imagenet(tmp_path, ["n001", "n002"])
        with (tmp_path / "val" / "val_annotations.txt").open("a") as file:
            file.write(line + "\n")
        assert refused("tinyimagenet", tmp_path).where.endswith("line 7")


class TestImageFolder:
    def test_given_parts_are_used_unchanged(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 4, "val": 2, "test": 3})
        data = load("imagefolder", tmp_path)
        assert (len(data.train), len(data.validation), len(data.test)) == (12, 6, 9)
        assert data.classes == ("cat", "dog", "eel")
        assert data.notes == ()
        first = writers.random_images(4, 12, 12, 3, seed=0 + len("train"))[0]
        assert torch.equal(data.train.images[:1][0], torch.from_numpy(first).permute(2, 0, 1))

    @pytest.mark.parametrize(
        ("parts", "counts"),
        [
            ({"train": 10}, (18, 6, 6)),
            ({"train": 10, "test": 3}, (24, 6, 9)),
            ({"train": 10, "val": 3}, (24, 6, 9)),
            ({"train": 10, "validation": 3}, (24, 6, 9)),
        ],
    )
    def test_missing_parts_are_held_out(
        self, tmp_path: Path, parts: dict[str, int], counts: tuple[int, int, int]
    ) -> None:
        writers.write_image_folder(tmp_path, parts)
        data = load("imagefolder", tmp_path)
        assert tuple(len(split) for split in data.splits().values()) == counts

    def test_class_folders_at_the_top_may_have_subfolders(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            writers.write_images(tmp_path / name, 2)
            writers.write_images(tmp_path / name / "deep" / "er", 4)
        data = load("imagefolder", tmp_path)
        assert data.classes == ("cat", "dog")
        assert sum(len(split) for split in data.splits().values()) == 12

    def test_grey_images_have_one_plane(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5}, mode="L")
        assert load("imagefolder", tmp_path).channels == 1

    def test_one_colour_image_gives_all_images_three_planes(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5}, mode="L")
        writers.write_images(tmp_path / "train" / "dog", 1, seed=9)
        assert load("imagefolder", tmp_path).channels == 3

    def test_images_of_different_sizes_need_a_size(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5})
        writers.write_images(tmp_path / "train" / "eel", 2, size=(20, 14))
        error = refused("imagefolder", tmp_path)
        assert error.where == "data.size"
        assert "20 × 14" in error.found
        data = load("imagefolder", tmp_path, size=10)
        assert data.size == 10

    def test_an_oblong_image_is_cropped_to_its_centre(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5})
        wide = writers.write_images(tmp_path / "train" / "cat", 1, size=(22, 12), seed=3)[0]
        data = load("imagefolder", tmp_path, size=12)
        wanted = torch.from_numpy(wide[:, 5:17].copy()).permute(2, 0, 1)
        everything = torch.cat([split.images for split in data.splits().values()])
        assert any(torch.equal(image, wanted) for image in everything)

    def test_a_damaged_image_is_named(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5}, suffix=".jpg", size=(32, 32))
        victim = tmp_path / "train" / "dog" / "002.jpg"
        victim.write_bytes(victim.read_bytes()[:300])
        assert str(victim) in refused("imagefolder", tmp_path, size=32).found

    def test_a_file_that_is_not_an_image_is_named(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5})
        (tmp_path / "train" / "dog" / "000.png").write_text("surprise")
        assert "dog/000.png" in refused("imagefolder", tmp_path).found

    def test_other_and_hidden_files_are_skipped(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5})
        for name in ("notes.txt", ".hidden.png", "Thumbs.db"):
            (tmp_path / "train" / "dog" / name).write_text("no image")
        (tmp_path / "train" / ".cache").mkdir()
        assert load("imagefolder", tmp_path).num_classes == 3

    @pytest.mark.parametrize("part", ["val", "test"])
    def test_a_class_that_training_lacks_is_named(self, tmp_path: Path, part: str) -> None:
        writers.write_image_folder(tmp_path, {"train": 5})
        writers.write_image_folder(tmp_path, {part: 1}, classes=("cat", "yak"))
        assert refused("imagefolder", tmp_path).where == str(tmp_path / part / "yak")

    def test_an_empty_class_is_named(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5})
        (tmp_path / "train" / "fox").mkdir()
        assert refused("imagefolder", tmp_path).where == str(tmp_path / "train" / "fox")

    def test_a_class_with_fewer_images_than_parts_stays_in_training(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5})
        writers.write_images(tmp_path / "train" / "fox", 2, seed=7)
        writers.write_images(tmp_path / "train" / "gnu", 1, seed=8)
        data = load("imagefolder", tmp_path)
        assert torch.bincount(data.train.labels).tolist() == [3, 3, 3, 2, 1]
        (note,) = data.notes
        assert "no images of fox, gnu in validation; none of fox, gnu in test" in note

    def test_a_single_class_is_refused(self, tmp_path: Path) -> None:
        writers.write_image_folder(tmp_path, {"train": 5}, classes=("cat",))
        assert "1 class" in refused("imagefolder", tmp_path).found


class TestMissing:
    @pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "tinyimagenet", "imagefolder"])
    def test_the_error_names_the_folder_and_the_setting(self, tmp_path: Path, name: str) -> None:
        for path in (tmp_path, tmp_path / "gone", None):
            settings = DataSettings(name=name, path=None if path is None else str(path))
            with pytest.raises(UserError) as caught:
                load_data(settings)
            assert caught.value.where == "data.path"
            assert path is None or str(path) in caught.value.found
            assert "data.path=" in caught.value.hint

    @pytest.mark.parametrize("name", ["mnist", "cifar10"])
    def test_a_failed_download_is_a_user_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        for variable in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(variable, "http://127.0.0.1:9")
        monkeypatch.setattr(urllib.request, "_opener", None)  # the process's own, made once, with its proxies
        assert refused(name, tmp_path, download=True).where == "data.download"

    @pytest.mark.parametrize("name", ["tinyimagenet", "imagefolder"])
    def test_download_of_other_sets_is_refused(self, tmp_path: Path, name: str) -> None:
        assert refused(name, tmp_path, download=True).where == "data.download"
