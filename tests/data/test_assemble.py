"""Assembly of a bundle: limits, sizes, statistics and digest."""

import dataclasses

import pytest
import torch

from tkd_search.data import DataSettings, Split, load_data
from tkd_search.data.assemble import assemble, resize, statistics
from tkd_search.data.sources.raw_data import RawData
from tkd_search.errors import UserError


def raw(count: int = 60, channels: int = 3, size: int = 8) -> RawData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    return RawData(train=Split(images, torch.arange(count) % 3), classes=("a", "b", "c"))


def test_statistics_are_those_of_the_training_images() -> None:
    data = assemble(raw(), DataSettings())
    values = data.train.images[:].double() / 255
    torch.testing.assert_close(torch.tensor(data.mean, dtype=torch.float64), values.mean((0, 2, 3)))
    torch.testing.assert_close(
        torch.tensor(data.std, dtype=torch.float64), values.std((0, 2, 3), unbiased=False)
    )


def test_a_plane_without_contrast_divides_by_one() -> None:
    mean, std = statistics(torch.full((4, 2, 3, 3), 51, dtype=torch.uint8))
    assert mean == pytest.approx((0.2, 0.2))
    assert std == (1.0, 1.0)


def test_a_limit_is_balanced_and_changes_only_the_training_part() -> None:
    whole, limited = (load_data(DataSettings(train_limit=limit)) for limit in (None, 200))
    assert torch.bincount(limited.train.labels).tolist() == [20] * 10
    assert torch.equal(whole.test.images, limited.test.images)
    assert torch.equal(whole.validation.labels, limited.validation.labels)
    assert whole.digest != limited.digest


def test_a_limit_below_the_number_of_classes_is_refused() -> None:
    with pytest.raises(UserError, match="train_limit"):
        load_data(DataSettings(train_limit=9))


def test_splits_depend_on_their_seed() -> None:
    one, other = (load_data(DataSettings(split_seed=seed)) for seed in (0, 1))
    assert not torch.equal(one.test.images, other.test.images)


def test_parts_have_the_shares_of_the_settings() -> None:
    data = load_data(DataSettings(test=0.5, validation=0.1))
    assert len(data.test) == pytest.approx(0.5 * 1797, abs=10)
    assert len(data.validation) == pytest.approx(0.05 * 1797, abs=10)


@pytest.mark.parametrize(("images", "test", "validation"), [(3, 0.5, 0.5), (4, 0.8, 0.2), (3, 0.9, 0.9)])
def test_every_part_has_an_image_of_every_class(images: int, test: float, validation: float) -> None:
    few = raw()
    positions = torch.cat([torch.nonzero(few.train.labels == label)[:images, 0] for label in range(3)])
    part = Split(few.train.images[positions], few.train.labels[positions])
    bundle = assemble(dataclasses.replace(few, train=part), DataSettings(test=test, validation=validation))
    for split in bundle.splits().values():
        assert len(split.labels.unique()) == 3


def test_images_are_resized() -> None:
    data = load_data(DataSettings(size=16))
    assert data.size == 16
    flat = resize(torch.full((2, 1, 8, 8), 77, dtype=torch.uint8), 5)
    assert flat.shape == (2, 1, 5, 5)
    assert (flat == 77).all()


def test_a_resized_ramp_is_increasing() -> None:
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(1, 1, 32, 32)
    small = resize(ramp, 8)[0, 0].int()
    assert (small[:, 1:] > small[:, :-1]).all()


class TestDigest:
    def test_the_same_data_has_the_same_digest(self) -> None:
        assert assemble(raw(), DataSettings()).digest == assemble(raw(), DataSettings()).digest

    @pytest.mark.parametrize(
        "change",
        [
            {"mean": (0.5,) * 3, "std": (0.5,) * 3},
            {"size": 9},
            {"split_seed": 4},
            {"test": 0.4},
            {"train_limit": 12},
        ],
    )
    def test_settings_that_change_the_data_change_the_digest(self, change: dict[str, object]) -> None:
        settings = dataclasses.replace(DataSettings(), **change)
        assert assemble(raw(), settings).digest != assemble(raw(), DataSettings()).digest

    def test_one_pixel_and_one_class_name_change_the_digest(self) -> None:
        before = assemble(raw(), DataSettings()).digest
        other = raw()
        other.train.images[5, 0, 0, 0] ^= 1
        assert assemble(other, DataSettings()).digest != before
        renamed = dataclasses.replace(raw(), classes=("a", "b", "z"))
        assert assemble(renamed, DataSettings()).digest != before

    def test_views_and_memory_budget_do_not_change_the_digest(self) -> None:
        settings = DataSettings(views=7, memory_budget_mb=64, augment="none")
        assert assemble(raw(), settings).digest == assemble(raw(), DataSettings()).digest


class TestNormalisation:
    def test_mean_and_std_of_the_settings_are_used(self) -> None:
        data = load_data(DataSettings(mean=(0.1,), std=(0.2,)))
        assert (data.mean, data.std) == ((0.1,), (0.2,))

    def test_a_wrong_number_of_values_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"data\.mean"):
            load_data(DataSettings(mean=(0.1, 0.2, 0.3), std=(0.2, 0.2, 0.2)))

    @pytest.mark.parametrize("name", ["mean", "std"])
    def test_values_of_pixels_up_to_255_are_refused(self, name: str) -> None:
        given = {"mean": (0.5,), "std": (0.2,), name: (123.675,)}
        with pytest.raises(ValueError, match=f"{name} = .*by 255"):
            DataSettings(**given)

    @pytest.mark.parametrize("wrong", [{"mean": (0.1,)}, {"std": (0.1,)}, {"mean": (0.1,), "std": (0.0,)}])
    def test_mean_or_std_alone_and_std_zero_are_refused(self, wrong: dict[str, tuple[float, ...]]) -> None:
        with pytest.raises(ValueError, match="std"):
            DataSettings(**wrong)


def test_a_split_with_fewer_labels_than_images_is_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2).long())


def test_a_given_part_without_a_class_is_said() -> None:
    whole = raw()
    few = Split(255 - whole.train.images[torch.arange(9)], torch.arange(9) % 2)
    (note,) = assemble(dataclasses.replace(whole, test=few), DataSettings()).notes
    assert note.startswith("warning: no images of c in test:")


def test_a_validation_part_without_a_test_part_is_the_test_part() -> None:
    whole = raw()
    given = Split(255 - whole.train.images[torch.arange(9)], torch.arange(9) % 3)
    as_test = assemble(dataclasses.replace(whole, test=given), DataSettings())
    as_validation = assemble(dataclasses.replace(whole, validation=given), DataSettings())
    assert as_validation.digest == as_test.digest
    (note,) = as_validation.notes
    assert "9 images given for validation are the test part" in note


def test_classes_of_one_image_alone_cannot_be_split() -> None:
    images = raw().train.images[torch.arange(3)]
    with pytest.raises(UserError, match="no class with enough images"):
        assemble(RawData(train=Split(images, torch.arange(3)), classes=("a", "b", "c")), DataSettings())


def test_a_class_without_training_images_is_refused() -> None:
    with pytest.raises(UserError, match="no training image of class 'd'"):
        assemble(dataclasses.replace(raw(), classes=("a", "b", "c", "d")), DataSettings())
