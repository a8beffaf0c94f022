"""Taps of torchvision's families and of other networks."""

from contextlib import closing

import pytest
import torch
from torch import Tensor, nn

from tests.distill.nets import TinyBig, TinyStudent
from tkd_search.distill.features.feature_stages import map_size, patch_side
from tkd_search.distill.features.taps import Tap, TapReader, as_map, find_taps, find_taps_of_all
from tkd_search.errors import UserError
from tkd_search.models.torchvision_compat import torchvision

AUTO = {
    "alexnet": (64, 8, "features.1", "classifier.5"),
    "vgg11": (32, 11, "features.1", "classifier.4"),
    "vgg16": (32, 16, "features.1", "classifier.4"),
    "vgg19_bn": (32, 7, "features.5", "classifier.4"),
    "resnet18": (32, 6, "relu", "layer4.1"),
    "resnet50": (32, 6, "relu", "layer4.2"),
    "efficientnet_b0": (32, 10, "features.0.2", "features.8.2"),
    "convnext_tiny": (32, 5, "features.1.2", "features.7.2"),
    "vit_b_32": (64, 5, "encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_11"),
    "mobilenet_v2": (32, 10, "features.0.2", "features.18.2"),
    "swin_t": (64, 5, "features.1.1", "features.7.1"),
}


@pytest.mark.parametrize("name", AUTO)
def test_auto_finds_the_ends_of_stages(name: str) -> None:
    size, number, first, last = AUTO[name]
    options = {"image_size": size} if name == "vit_b_32" else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, num_classes=7, **options)
    taps = find_taps(model, ("auto",), torch.zeros(2, 3, size, size, device="meta"))
    names = [tap.name for tap in taps]
    assert len(taps) == number <= 16
    assert names[0] == first
    assert names[-2:] == [last, "logits"]
    assert taps[-1].channels == 7
    assert not taps[-1].spatial
    assert all(tap.channels >= 3 for tap in taps)


@pytest.mark.parametrize(
    ("tokens", "side"),
    [(1, 0), (3, 0), (4, 2), (5, 2), (16, 4), (17, 4), (50, 7), (197, 14), (198, 14), (201, 14), (23, 0)],
)
def test_patch_tokens_are_a_square_after_few_others(tokens: int, side: int) -> None:
    assert patch_side(tokens) == side


def test_patch_tokens_are_averaged_and_a_grid() -> None:
    model = torchvision.models.VisionTransformer(32, 16, 2, 2, 24, 48, num_classes=5).eval()
    taps = find_taps(model, ("encoder.layers.*layer_1",), torch.zeros(1, 3, 32, 32))
    assert taps[0] == Tap("encoder.layers.encoder_layer_1", 24, 4)
    outputs: list[Tensor] = []
    model.encoder.layers[1].register_forward_hook(lambda m, a, out: outputs.append(out))
    with closing(TapReader(model, taps, grid=2, with_cells=taps)) as reader:
        _, features, cells = reader(torch.randn(3, 3, 32, 32))
    torch.testing.assert_close(features[0], outputs[0].mean(1))
    torch.testing.assert_close(
        cells[0], outputs[0][:, 1:].transpose(1, 2), msg="patch (i, j) is cell 2 i + j"
    )


def test_features_do_not_change_with_later_in_place_operations() -> None:
    model = TinyBig().eval()
    taps = find_taps(model, ("features.0", "features.1"), torch.zeros(1, 1, 8, 8))
    images = torch.randn(4, 1, 8, 8)
    with closing(TapReader(model, taps, 4, taps[:2])) as reader, torch.no_grad():
        logits, features, cells = reader(images)
        before = model.features[0](images)
    torch.testing.assert_close(features[0], before.mean((2, 3)))
    torch.testing.assert_close(features[1], before.relu().mean((2, 3)))
    torch.testing.assert_close(cells[0].mean(2), features[0])
    torch.testing.assert_close(features[2], logits)


def test_a_closed_reader_leaves_no_hooks() -> None:
    model = TinyBig().eval()
    with closing(TapReader(model, find_taps(model, ("auto",), torch.zeros(1, 1, 8, 8)))):
        assert any(m._forward_hooks for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_finding_taps_restores_the_mode_and_changes_no_state(training: bool) -> None:
    model = TinyBig().train(training)
    state = torch.random.get_rng_state()
    statistics = model.features[4].running_mean.clone()
    find_taps(model, ("auto",), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert model.training == training
    assert torch.equal(model.features[4].running_mean, statistics)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_taps_of_a_wrapped_network_are_found_with_and_without_prefix() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = TinyBig()

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return self.model(x), None

    example = torch.zeros(1, 1, 8, 8)
    auto = [tap.name for tap in find_taps(Wrapper(), ("auto",), example)]
    assert auto == ["model.features.1", "model.features.5", "model.classifier.2", "logits"]
    assert [t.name for t in find_taps(Wrapper(), ("features.1",), example)] == ["model.features.1", "logits"]


def test_auto_on_a_network_that_returns_its_maps_too() -> None:
    names = [tap.name for tap in find_taps(TinyStudent(), ("auto",), torch.zeros(1, 1, 8, 8))]
    assert names == ["body.2", "body.5", "logits"]


def test_an_unknown_name_is_refused_with_known_names() -> None:
    with pytest.raises(UserError, match=r"features\.1") as caught:
        find_taps(TinyBig(), ("layer9.*",), torch.zeros(1, 1, 8, 8))
    assert caught.value.where == "bank.taps"


def test_channels_last_activations_are_permuted() -> None:
    assert as_map(torch.zeros(2, 7, 7, 24)).shape == (2, 24, 7, 7)
    assert as_map(torch.zeros(2, 24, 7, 7)).shape == (2, 24, 7, 7)
    assert as_map((torch.zeros(2, 5), None)).shape == (2, 5)
    assert as_map({"a": 1}) is None
    assert as_map(torch.zeros(2, 3, dtype=torch.long)) is None


def test_a_pattern_may_match_one_of_several_models() -> None:
    models, example = [TinyBig(), TinyStudent()], torch.zeros(1, 1, 8, 8)
    taps = find_taps_of_all(models, ("features.5", "body.2"), [example] * 2)
    assert [tap.label for tap in taps] == ["features.5", "logits", "1:body.2", "1:logits"]
    with pytest.raises(UserError):
        find_taps_of_all(models, ("features.5", "head.*.nothing"), [example] * 2)


def test_maps_of_one_row_or_column_have_no_positions() -> None:
    shapes = ((2, 3, 4, 5), (2, 3, 1, 7), (2, 3, 7, 1), (2, 3))
    assert [map_size(shape) for shape in shapes] == [(4, 5), None, None, None]
