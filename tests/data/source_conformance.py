"""What every source of images must do: a suite that the tests of each source inherit.

A source writes the same images in its own form: :meth:`SourceConformance.write` gets, for each part, the list
of (class name, pixels) in order, and returns the settings that read it.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.data.writers import random_images, write_images
from tkd_search.data import DataBundle, DataSettings, load_data
from tkd_search.data.prepared_files import load_prepared, save_prepared
from tkd_search.errors import UserError

Picture = tuple[str, np.ndarray]
"""Class name and pixels [12, 12, 3]."""


def pictures(count: int, classes: Sequence[str], seed: int = 0) -> list[Picture]:
    """Return so many random pictures of every class."""
    made = random_images(count * len(classes), 12, 12, 3, seed=seed)
    return [(classes[i % len(classes)], image) for i, image in enumerate(made)]


def found(data: DataBundle, part: str) -> set[tuple[str, bytes]]:
    """Return class name and pixels of the images of one part."""
    split = data.splits()[part]
    images = split.images[torch.arange(len(split))].permute(0, 2, 3, 1).contiguous().numpy()
    return {(data.classes[int(y)], x.tobytes()) for x, y in zip(images, split.labels, strict=True)}


def expected(given: Sequence[Picture]) -> set[tuple[str, bytes]]:
    """Return the same of pictures that were written."""
    return {(name, image.tobytes()) for name, image in given}


class SourceConformance(ABC):
    """Inherit and write the pictures in the source's own form.

    ``classes`` are the names in the order that they must have.
    """

    classes: ClassVar[tuple[str, ...]] = ("10", "9", "ant", "bee")

    @abstractmethod
    def write(self, folder: Path, parts: dict[str, list[Picture]]) -> DataSettings:
        """Write the pictures of ``train`` and any of ``validation``, ``test``; return settings."""

    @abstractmethod
    def spoil(self, folder: Path, count: int) -> list[str]:
        """Make so many images of ``train`` unreadable; return words that must name each."""

    def test_classes_are_ordered_and_parts_are_as_given(self, tmp_path: Path) -> None:
        parts = {
            part: pictures(3, self.classes[::-1], seed)
            for seed, part in enumerate(("train", "validation", "test"))
        }
        data = load_data(self.write(tmp_path, parts))
        assert data.classes == self.classes
        for part, given in parts.items():
            assert found(data, part) == expected(given)
        assert data.notes == ()

    @pytest.mark.parametrize("given", ["validation", "test"])
    def test_one_given_part_is_the_test_part(self, tmp_path: Path, given: str) -> None:
        parts = {"train": pictures(5, self.classes), given: pictures(2, self.classes, 1)}
        data = load_data(self.write(tmp_path, parts))
        assert found(data, "test") == expected(parts[given])
        assert found(data, "train") | found(data, "validation") == expected(parts["train"])
        assert torch.bincount(data.validation.labels).tolist() == [1] * 4
        assert [("given for validation are the test part" in note) for note in data.notes] == [True] * (
            given == "validation"
        )

    def test_missing_parts_are_held_out(self, tmp_path: Path) -> None:
        given = pictures(5, self.classes)
        data = load_data(self.write(tmp_path, {"train": given}))
        assert [len(split) for split in data.splits().values()] == [12, 4, 4]
        assert set.union(*(found(data, part) for part in data.splits())) == expected(given)

    def test_the_digest_is_that_of_the_content(self, tmp_path: Path) -> None:
        given = pictures(5, self.classes)
        first, again = (load_data(self.write(tmp_path / name, {"train": given})) for name in ("a", "b"))
        other = [*given[:-1], (given[-1][0], 255 - given[-1][1])]
        assert first.digest == again.digest
        assert load_data(self.write(tmp_path / "c", {"train": other})).digest != first.digest

    def test_images_beyond_the_memory_budget_are_streamed(self, tmp_path: Path) -> None:
        settings = self.write(tmp_path, {"train": pictures(15, self.classes)})
        large = dataclasses.replace(settings, size=400)
        held, streamed = load_data(large), load_data(dataclasses.replace(large, memory_budget_mb=16))
        assert isinstance(held.test.images, torch.Tensor)
        assert not isinstance(streamed.test.images, torch.Tensor)
        assert torch.equal(streamed.test.images[torch.arange(len(streamed.test))], held.test.images)
        assert torch.equal(streamed.test.labels, held.test.labels)
        assert (streamed.digest, streamed.mean) == (held.digest, held.mean)

    @pytest.mark.parametrize("budget", [4096, 16])
    def test_unlabelled_images_follow_the_training_images(self, tmp_path: Path, budget: int) -> None:
        settings = self.write(tmp_path / "labelled", {"train": pictures(9, self.classes)})
        settings = dataclasses.replace(settings, size=400, memory_budget_mb=budget)
        write_images(tmp_path / "others" / "any" / "depth", 7, seed=9)
        alone = load_data(settings)
        data = load_data(dataclasses.replace(settings, unlabelled=str(tmp_path / "others")))
        assert (alone.unlabelled, data.unlabelled) == (0, 7)
        assert isinstance(data.train.images, torch.Tensor) is (budget == 4096)
        assert torch.equal(data.train.labels[:-7], alone.train.labels)
        first = torch.arange(len(alone.train))
        assert torch.equal(data.train.images[first], alone.train.images[first])
        for part in ("validation", "test"):
            assert torch.equal(data.splits()[part].labels, alone.splits()[part].labels)
        assert (data.mean, data.std) == (alone.mean, alone.std)
        assert data.digest != alone.digest
        save_prepared(data, tmp_path / "prepared")
        again, index = load_prepared(tmp_path / "prepared"), torch.tensor([0, len(data.train) - 1])
        assert again.unlabelled == 7
        assert torch.equal(again.train.images[index], data.train.images[index])

    def test_broken_images_are_counted_and_named(self, tmp_path: Path) -> None:
        settings = self.write(tmp_path, {"train": pictures(5, self.classes)})
        names = self.spoil(tmp_path, 3)
        with pytest.raises(UserError) as caught:
            load_data(settings)
        assert "3 of 20 images cannot be read" in caught.value.found
        assert all(name in caught.value.found for name in names)

    def test_few_broken_images_may_be_left_out(self, tmp_path: Path) -> None:
        given = pictures(30, self.classes)
        settings = dataclasses.replace(self.write(tmp_path, {"train": given}), on_error="skip")
        self.spoil(tmp_path, 1)
        data = load_data(settings)
        (note,) = data.notes
        assert "1 of 120 images cannot be read and are left out" in note
        everything = set.union(*(found(data, part) for part in data.splits()))
        assert len(everything) == 119
        assert everything < expected(given)
        self.spoil(tmp_path, 2)
        with pytest.raises(UserError, match="at most 1%"):
            load_data(settings)

    def test_duplicates_and_missing_classes_are_said(self, tmp_path: Path) -> None:
        train = pictures(5, self.classes)
        parts = {"train": train, "test": [train[0], train[5], *pictures(3, self.classes[:3], 7)]}
        notes = "\n".join(load_data(self.write(tmp_path, parts)).notes)
        assert "of test in train" in notes
        missing = set(self.classes) - {name for name, _ in parts["test"]}
        assert all(name in notes for name in missing)
