"""Networks that take other images than the data set gives."""

import pytest
import torch
import torch.nn.functional as F

from tkd_search.errors import UserError
from tkd_search.models import build_big_model, build_student, cut_student
from tkd_search.models.image_input import ImageInput, big_model_input, rendering, student_input
from tkd_search.models.model_settings import BigModelSettings, StudentSettings

GIVEN = ImageInput(size=48, mean=(0.4, 0.5, 0.3), std=(0.2, 0.3, 0.25))
SHAPE = {"classes": 4, "channels": 3, "size": 48}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
BIG = BigModelSettings(name="resnet18", width=0.25, input_size=64, **HALF)


def normalised(pixels, one):
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (one.mean, one.std))
    return (pixels - mean) / std


@pytest.fixture
def pixels():
    return torch.rand(6, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [32, 48, 64])
def test_rendering_is_scaling_then_the_other_normalisation(pixels, size):
    wanted = ImageInput(size=size, **HALF)
    found = rendering(GIVEN, wanted)(normalised(pixels, GIVEN))
    scaled = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(found, normalised(scaled, wanted), rtol=1e-4, atol=1e-5)


def test_the_same_input_is_not_rendered():
    assert rendering(GIVEN, GIVEN) is None
    assert build_student(StudentSettings(), **SHAPE, big_model=BIG, given=GIVEN).render is None


def test_lists_as_json_has_them_are_the_same_input():
    listed = BigModelSettings(name="resnet18", mean=list(GIVEN.mean), std=list(GIVEN.std))
    assert rendering(GIVEN, big_model_input(listed, GIVEN)) is None


def test_a_network_is_built_for_its_own_size_and_renders_it(pixels):
    big = build_big_model(BIG, **SHAPE, given=GIVEN).eval()
    assert big.input_shape == (3, 64, 64)
    images = normalised(pixels, GIVEN)
    expected = big.model(rendering(GIVEN, big_model_input(BIG, GIVEN))(images))
    torch.testing.assert_close(big(images).logits, expected)
    assert "render" not in "".join(big.state_dict()), "what ships does not change"


def test_a_student_takes_the_input_of_the_data_set_and_a_cut_that_of_the_big_model():
    named, cut = StudentSettings(), StudentSettings(name="cut")
    assert student_input(named, BIG, GIVEN) == GIVEN
    assert student_input(cut, BIG, GIVEN) == ImageInput(size=64, **HALF)
    small = StudentSettings(name="cut", input_size=32)
    assert student_input(small, BIG, GIVEN) == ImageInput(size=32, **HALF)


@pytest.mark.parametrize("size", [None, 32])
def test_a_whole_cut_computes_what_the_big_model_does_at_any_size(pixels, size):
    torch.manual_seed(0)
    big = build_big_model(BIG, **SHAPE, given=GIVEN).eval()
    settings = StudentSettings(name="cut", width=1.0, input_size=size)
    images = normalised(pixels, GIVEN)
    student, record = cut_student(
        settings, big, BIG, **SHAPE, batches=[(images, torch.arange(6) % 4)], seed=0, given=GIVEN
    )
    assert student.input_shape == (3, size or 64, size or 64)
    for (name, ours), theirs in zip(student.named_parameters(), big.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    again = build_student(settings, **SHAPE, big_model=BIG, record=record, given=GIVEN).eval()
    again.load_state_dict(student.state_dict())
    assert torch.equal(again(images).logits, student(images).logits)


def test_a_network_of_one_size_is_refused_at_another():
    settings = StudentSettings(name="cut", input_size=32)
    vit = BigModelSettings(name="vit_b_16", width=0.1, input_size=64)
    with pytest.raises(UserError, match="fails on 3 × 32 × 32 images"):
        build_student(settings, **SHAPE, big_model=vit, given=GIVEN)


@pytest.mark.parametrize(
    ("name", "weights", "mean"),
    [
        ("mobilenet_v3_small", "pretrained", (0.485, 0.456, 0.406)),
        ("resnet18", "IMAGENET1K_V1", (0.485, 0.456, 0.406)),
        ("timm/tf_efficientnet_lite0", "pretrained", (0.5, 0.5, 0.5)),
        ("timm/tf_efficientnet_lite0", "in1k", (0.5, 0.5, 0.5)),
        ("mobilenet_v3_small", None, GIVEN.mean),
        ("mobilenet_v3_small", "mine.safetensors", GIVEN.mean),
        ("tkd_search.models.plain:plain_cnn", "pretrained", GIVEN.mean),
    ],
)
def test_weights_of_a_library_bring_their_normalisation(name, weights, mean):
    student = StudentSettings(name=name, weights=weights)
    assert student_input(student, BIG, GIVEN).mean == mean
    assert big_model_input(BigModelSettings(name=name, weights=weights), GIVEN).mean == mean
    grey = ImageInput(size=48, mean=(0.2,), std=(0.1,))
    own = big_model_input(BigModelSettings(name=name, weights=weights), grey).mean
    assert own == pytest.approx((0.2,) if mean == GIVEN.mean else (sum(mean) / 3,))


def test_a_normalisation_of_other_planes_is_refused():
    grey = ImageInput(size=48, mean=(0.5,), std=(0.5,))
    with pytest.raises(UserError, match=r"big_model\.mean"):
        build_big_model(BIG, classes=4, channels=1, size=48, given=grey)
