"""Views are deterministic and are the shifts, crops and flips that are documented."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tkd_search.data import AugmentedViews, Split, plain_batches
from tkd_search.data.views import Normaliser, _crop_by_index, _crop_by_slices, splitmix64
from tkd_search.distill.interfaces import ViewSource

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def split(count: int = 40, channels: int = 3, size: int = 16) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % 4)


def source(augment: str = "crop_flip", views: int = 4, seed: int = 0, **kind: int) -> AugmentedViews:
    data = split(**kind)
    planes = data.images.shape[1]  # type: ignore[attr-defined]
    return AugmentedViews(data, mean=MEAN[:planes], std=STD[:planes], views=views, augment=augment, seed=seed)


ALL = torch.arange(40)


def views_of(count: int, view: int) -> torch.Tensor:
    return torch.full((count,), view)


@pytest.mark.parametrize("augment", ["none", "shift", "crop_flip"])
class TestEveryAugmentation:
    def test_view_zero_is_the_image(self, augment: str) -> None:
        made = source(augment)
        assert torch.equal(made.pixels(ALL, views_of(40, 0)), split().images)

    def test_a_view_does_not_depend_on_the_batch(self, augment: str) -> None:
        made = source(augment)
        view = ALL % 4
        whole = made.batch(ALL, view)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(made.batch(ALL[order], view[order]), whole[order], rtol=0, atol=0)
        for i in (0, 7, 39):
            torch.testing.assert_close(
                made.batch(ALL[i : i + 1], view[i : i + 1]), whole[i : i + 1], rtol=0, atol=0
            )

    def test_the_global_random_state_does_not_change_a_view(self, augment: str) -> None:
        torch.manual_seed(5)
        first = source(augment).batch(ALL, ALL % 4)
        torch.manual_seed(6)
        assert torch.equal(first, source(augment).batch(ALL, ALL % 4))

    def test_batches_are_normalised_floats_in_channels_last(self, augment: str) -> None:
        made = source(augment)
        batch, pixels = made.batch(ALL, ALL % 4), made.pixels(ALL, ALL % 4)
        shape = (1, 3, 1, 1)
        wanted = (pixels.double() / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
        assert batch.dtype == torch.float32
        assert batch.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(batch, wanted.float(), rtol=1e-5, atol=1e-5)

    def test_it_is_a_view_source(self, augment: str) -> None:
        made: ViewSource = source(augment)
        assert len(made) == 40
        assert made.views == 4
        assert torch.equal(made.labels, split().labels)

    def test_an_empty_batch_is_empty(self, augment: str) -> None:
        none = torch.empty(0, dtype=torch.int64)
        assert source(augment).batch(none, none).shape == (0, 3, 16, 16)


def test_shifts_move_by_up_to_a_twelfth_and_fill_with_black() -> None:
    made = source("shift", views=0, channels=1, size=24)
    image = split(channels=1, size=24).images[0, 0]  # type: ignore[index]
    shifts = set()
    for view in range(1, 200):
        pixels = made.pixels(torch.tensor([0]), torch.tensor([view]))[0, 0]
        shifts.add(next(found for found in moves(2) if torch.equal(moved(image, *found), pixels)))
    assert shifts == set(moves(2))


def moves(margin: int) -> list[tuple[int, int]]:
    return [(y, x) for y in range(-margin, margin + 1) for x in range(-margin, margin + 1)]


def moved(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    rolled = torch.roll(image, (down, right), (0, 1)).clone()
    rolled[: max(down, 0)] = 0
    rolled[len(image) + min(down, 0) :] = 0
    rolled[:, : max(right, 0)] = 0
    rolled[:, len(image) + min(right, 0) :] = 0
    return rolled


def test_crops_flip_about_half_of_the_images_and_shifts_none() -> None:
    data = Split(
        torch.arange(256, dtype=torch.uint8).repeat(400, 1, 8, 1)[..., 100:108], torch.zeros(400).long()
    )
    rising = {}
    for augment in ("shift", "crop_flip"):
        made = AugmentedViews(data, mean=(0.5,), std=(0.5,), views=2, augment=augment)
        middle = made.pixels(torch.arange(400), views_of(400, 1))[:, 0, 4, 3:5].int()
        rising[augment] = float((middle[:, 1] > middle[:, 0]).float().mean())
    assert rising["shift"] == 1.0
    assert 0.4 < rising["crop_flip"] < 0.6


def test_views_of_one_image_differ_and_differ_by_seed() -> None:
    made = source("crop_flip", views=16)
    views = [made.pixels(torch.tensor([3]), torch.tensor([view])).numpy().tobytes() for view in range(16)]
    assert len(set(views)) >= 14
    assert not torch.equal(made.pixels(ALL, views_of(40, 1)), source(seed=1).pixels(ALL, views_of(40, 1)))


def test_shifts_are_uniform_over_images_and_views() -> None:
    made = source("shift", views=0, count=2000, channels=1, size=12)
    index = torch.arange(2000)
    for view in (1, 2, 77, 10**9):
        top, left, _ = made._draw(index, views_of(2000, view), 1)
        for drawn in (top, left):
            counts = torch.bincount(drawn, minlength=3).double()
            assert ((counts - 2000 / 3).square() / (2000 / 3)).sum() < 14, (
                "chi-square with 2 degrees, p < .001"
            )
        both = torch.bincount(3 * top + left, minlength=9).double()
        assert ((both - 2000 / 9).square() / (2000 / 9)).sum() < 27


class TestViewNumbers:
    def test_without_fixed_views_any_number_is_a_view(self) -> None:
        made = source(views=0)
        assert made.batch(ALL, views_of(40, 2**40)).shape == (40, 3, 16, 16)

    def test_a_view_outside_the_fixed_ones_is_refused(self) -> None:
        for wrong in (4, -1):
            with pytest.raises(IndexError, match="of 4"):
                source().batch(ALL, views_of(40, wrong))

    @pytest.mark.parametrize("wrong", [{"views": -1}, {"augment": "rotate"}])
    def test_illegal_settings_are_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="allowed"):
            source(**wrong)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(4, 12),
    margin=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_both_ways_to_crop_agree(size: int, margin: int, channels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    side = size + 2 * margin
    padded = torch.randint(0, 256, (9, channels, side, side), dtype=torch.uint8, generator=generator)
    top, left = (torch.randint(0, 2 * margin + 1, (9,), generator=generator) for _ in range(2))
    flip = torch.randint(0, 2, (9,), generator=generator).bool()
    one, other = (way(padded, size, top, left, flip) for way in (_crop_by_slices, _crop_by_index))
    assert torch.equal(one, other)


@given(number=st.integers(-(2**63), 2**63 - 1))
def test_splitmix64_matches_the_reference(number: int) -> None:
    mask = 2**64 - 1
    z = (number + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    wanted = z ^ (z >> 31)
    assert int(splitmix64(torch.tensor([number])).numpy().astype(np.uint64)[0]) == wanted


def test_views_are_those_of_earlier_versions() -> None:
    """Stored banks have features of these views: if this test has to change, increase VIEWS_VERSION."""
    data = Split(torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8), torch.zeros(1).long())
    made = AugmentedViews(data, mean=(0.0,), std=(1.0,), views=0, augment="crop_flip", seed=0)
    corners = [int(made.pixels(torch.tensor([0]), torch.tensor([view]))[0, 0, 3, 3]) for view in range(8)]
    assert corners == [27, 26, 36, 27, 21, 36, 19, 35]


def test_plain_batches_have_every_image_in_order() -> None:
    data = split()
    batches = list(plain_batches(data, mean=MEAN, std=STD, batch_size=17))
    assert [len(labels) for _, labels in batches] == [17, 17, 6]
    together = torch.cat([images for images, _ in batches])
    torch.testing.assert_close(together, Normaliser(MEAN, STD)(data.images))  # type: ignore[arg-type]
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.labels)
