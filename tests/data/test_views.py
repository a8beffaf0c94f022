"""Views are deterministic and are the shifts, crops and flips that are documented."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tkd_search.data import AugmentedViews, Split, augmentation, plain_batches
from tkd_search.data.view_bits import splitmix64, uniform
from tkd_search.data.views import Normaliser, _crop_by_index, _crop_by_slices
from tkd_search.distill.interfaces import ViewSource
from tkd_search.models.torchvision_compat import image_functions, torchvision

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def split(count: int = 40, channels: int = 3, size: int = 16) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % 4)


KINDS: dict[str, dict[str, Any]] = {
    **{name: {"augment": name} for name in ("none", "shift", "crop_flip", "resized_crop")},
    "randaugment": {"augment": "none", "randaugment": 2},
    "erasing": {"augment": "none", "erasing": 0.5},
    "everything": {"augment": "resized_crop", "randaugment": 3, "erasing": 0.5},
}


def source(augment: str = "crop_flip", views: int = 4, seed: int = 0, **kind: int) -> AugmentedViews:
    data = split(**kind)
    planes = data.images.shape[1]
    chosen = KINDS.get(augment, {"augment": augment})
    return AugmentedViews(data, mean=MEAN[:planes], std=STD[:planes], views=views, seed=seed, **chosen)


ALL = torch.arange(40)


def views_of(count: int, view: int) -> torch.Tensor:
    return torch.full((count,), view)


@pytest.mark.parametrize("augment", KINDS)
class TestEveryAugmentation:
    def test_views_differ_unless_there_is_no_augmentation(self, augment: str) -> None:
        made = source(augment, views=0)
        changed = (made.pixels(ALL, ALL + 1) != split().images).flatten(1).any(1)
        assert float(changed.float().mean()) > (0.3 if augment != "none" else -1)
        assert augment != "none" or not changed.any()

    @pytest.mark.parametrize("shape", [{"channels": 1, "size": 8}, {"channels": 3, "size": 33}])
    def test_images_of_any_shape_have_views(self, augment: str, shape: dict[str, int]) -> None:
        made = source(augment, views=0, **shape)
        pixels = made.pixels(ALL, ALL)
        assert pixels.shape == split(**shape).images.shape
        assert pixels.dtype == torch.uint8

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
    image = split(channels=1, size=24).images[0, 0]
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


BITS = splitmix64(torch.arange(3000))


def test_numbers_drawn_for_a_view_are_uniform_and_independent() -> None:
    draws = [uniform(BITS, draw) for draw in range(4)]
    assert all(0 <= float(u.min()) <= float(u.max()) < 1 for u in draws)
    for u in draws:
        counts = (u * 10).long().bincount(minlength=10).double()
        assert ((counts - 300).square() / 300).sum() < 28, "chi-square with 9 degrees, p < .001"
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(4)
    assert correlation.abs().max() < 0.07
    assert float(uniform(torch.tensor([7]), 3)) == 0.033311053770689214


@given(size=st.integers(4, 224), high=st.floats(0.3, 1.0), ratio=st.floats(1.0, 3.0))
@settings(max_examples=30)
def test_boxes_are_inside_and_have_their_area(size: int, high: float, ratio: float) -> None:
    boxes = augmentation._boxes(BITS[:200], size, area=(0.25, high), ratio=ratio)
    top, left, height, width = boxes.unbind(1)
    assert int(boxes[:, 2:].min()) >= 1
    assert int(torch.stack([top, left]).min()) >= 0
    assert int(torch.stack([top + height, left + width]).max()) <= size
    share = height * width / size**2
    assert float(share.max()) <= (high**0.5 + 1 / size) ** 2 + 1e-6


def test_a_resized_crop_scales_a_part_and_flips_half_of_the_images() -> None:
    rising = torch.arange(64, dtype=torch.uint8).mul(3).expand(400, 1, 64, 64)
    made = augmentation.resized_crop(rising, BITS[:400])[:, 0, 32].int()
    span = (made[:, -1] - made[:, 0]).abs().float() / (63 * 3)
    assert 0.4 < float(span.min()) < 0.6
    assert float(span.max()) > 0.9
    assert 0.4 < float((made[:, -1] < made[:, 0]).float().mean()) < 0.6


def test_randaugment_has_torchvisions_operations_and_draws_them_alike() -> None:
    image_functions()
    v2 = torchvision.transforms.v2
    theirs = v2.RandAugment(magnitude=9)
    images = split(count=1, size=32).images[:1] // 2 + 40
    expected = []
    for name, (magnitudes, signed) in theirs._AUGMENTATION_SPACE.items():
        values = magnitudes(31, 32, 32)
        value = 0.0 if values is None else float(values[9])
        for sign in (1, -1) if signed else (1,):
            found = theirs._apply_image_or_video_transform(
                images, name, sign * value, interpolation=v2.InterpolationMode.NEAREST, fill={}
            )
            expected += [found] if signed else [found, found]
    functions = augmentation._functions(32)
    ours, wanted = torch.cat([function(images) for function in functions]).int(), torch.cat(expected).int()
    # Their magnitudes are float32, which may round a pixel differently.
    same = (ours[:, None] - wanted[None]).abs().flatten(2).amax(2) <= 1
    assert same.any(0).all()
    assert same.any(1).all()
    assert len(functions) == 28, "each of 14 operations twice, as both signs or alike"


def test_erasing_fills_a_box_of_its_share_with_the_colour() -> None:
    images = torch.full((1000, 3, 30, 30), 7, dtype=torch.uint8)
    made = augmentation.erase(images, BITS[:1000], 0.4, (0.0, 0.5, 1.0))
    inside = made[:, 0] != 7
    assert 0.34 < float(inside.flatten(1).any(1).float().mean()) < 0.46
    share = inside.flatten(1).float().mean(1)
    share = share[share > 0]
    assert 0.01 < float(share.min()) < 0.03 < 0.28 < float(share.max()) < 0.36
    for plane, value in enumerate((0, 128, 255)):
        assert set(made[:, plane][inside].tolist()) == {value}
        assert set(made[:, plane][~inside].tolist()) == {7}
    none = augmentation.erase(images, BITS[:1000], 0.0, (0.0, 0.5, 1.0))
    assert torch.equal(none, images)


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
            source(**wrong)


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
    torch.testing.assert_close(together, Normaliser(MEAN, STD)(data.images))
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.labels)
