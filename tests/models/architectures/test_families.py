"""Networks by name: maps for small inputs, order of sizes by width, equality with torchvision at width 1."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tkd_search.models import build_big_model, build_student, strides
from tkd_search.models.architectures import alexnet, mobilenet, transformers
from tkd_search.models.architectures.families import ModelSpec, family_of, known_names
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.models.size import model_bytes
from tkd_search.models.student import Student
from tkd_search.models.torchvision_compat import torchvision

STUDENTS = ("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0", "resnet18")
WITH_MAPS = ("mobilenet_v2", "shufflenet_v2_x0_5", "efficientnet_b0", "resnet18")


def student(name: str, size: int = 32, channels: int = 3, classes: int = 10, **knobs: object) -> Student:
    made = StudentSettings(name=name, **{"width": 0.25, **knobs})
    return build_student(made, classes=classes, channels=channels, size=size)


def bytes_of(name: str, **knobs: object) -> int:
    return model_bytes(student(name, **knobs).model)


class TestStudents:
    @pytest.mark.parametrize("name", STUDENTS)
    @pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3)])
    def test_every_input_size_gives_logits(self, name: str, size: int, channels: int) -> None:
        made = student(name, size, channels).train()
        output = made(torch.randn(3, channels, size, size))
        assert output.logits.shape == (3, 10)
        assert output.logits.isfinite().all()

    @pytest.mark.parametrize("name", WITH_MAPS)
    @pytest.mark.parametrize(("size", "side"), [(8, 2), (12, 3), (16, 4), (28, 4), (32, 4), (64, 4)])
    def test_the_last_map_has_about_four_by_four_positions(self, name: str, size: int, side: int) -> None:
        maps = student(name, size)(torch.randn(2, 3, size, size)).maps
        assert maps is not None
        assert maps.shape[-2:] == (side, side)

    @pytest.mark.parametrize("name", STUDENTS)
    def test_a_wider_network_is_larger(self, name: str) -> None:
        sizes = [bytes_of(name, width=width) for width in (0.1, 0.25, 0.5, 1.0)]
        assert sizes == sorted(set(sizes))

    @pytest.mark.parametrize("name", ["resnext50_32x4d", "wide_resnet50_2", "resnet18", "vgg11_bn"])
    def test_the_narrowest_network_has_channels_in_every_layer(self, name: str) -> None:
        made = student(name, width=0.01)
        assert all(parameter.numel() for parameter in made.parameters())
        assert made(torch.randn(2, 3, 32, 32)).logits.shape == (2, 10)

    @pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "shufflenet_v2_x0_5", "efficientnet_b0"])
    def test_a_deeper_network_is_larger(self, name: str) -> None:
        sizes = [bytes_of(name, depth=depth) for depth in (0.5, 1.0, 2.0)]
        assert sizes == sorted(set(sizes))

    def test_the_last_layer_does_not_dominate_a_narrow_mobilenet(self) -> None:
        narrow, own = (
            bytes_of("mobilenet_v2", width=0.1),
            bytes_of("mobilenet_v2", width=0.1, stem="original"),
        )
        assert narrow < 0.6 * own

    def test_the_order_of_strides_does_not_change_the_size(self) -> None:
        early = student("mobilenet_v2", args={"stride_order": [0, 1, 2, 3, 4]})
        late = student("mobilenet_v2", args={"stride_order": [4, 3, 2, 1, 0]})
        assert model_bytes(early.model) == model_bytes(late.model)
        assert early.model.features[0][0].stride == (2, 2)
        assert late.model.features[0][0].stride == (1, 1)

    def test_equal_seeds_build_equal_students(self) -> None:
        made = []
        for _ in range(2):
            torch.manual_seed(3)
            made.append(student("mobilenet_v2", width=0.1).state_dict())
        assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


class TestBigModels:
    @pytest.mark.parametrize(
        ("name", "width"),
        [
            ("alexnet", 0.125),
            ("vgg11_bn", 0.125),
            ("resnet18", 0.25),
            ("efficientnet_b0", 0.5),
            ("vit_b_16", 0.1),
        ],
    )
    @pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3)])
    def test_every_input_size_gives_logits(self, name: str, width: float, size: int, channels: int) -> None:
        settings = BigModelSettings(name=name, width=width)
        model = build_big_model(settings, classes=7, channels=channels, size=size)
        assert model(torch.randn(3, channels, size, size)).logits.shape == (3, 7)

    def test_convnext_keeps_four_by_four_positions_of_small_images(self) -> None:
        settings = BigModelSettings(name="convnext_tiny")
        with torch.device("meta"):
            model = build_big_model(settings, classes=5, channels=1, size=32)
            features = model.model.features(torch.empty(2, 1, 32, 32))
        assert features.shape[-2:] == (4, 4)

    def test_alexnet_keeps_four_by_four_positions_before_its_head(self) -> None:
        for size in (8, 16, 28, 32):
            net = alexnet.alexnet(num_classes=3, channels=1, size=size, width=0.125, small=True)
            assert net.features(torch.randn(1, 1, size, size)).shape[-1] == 4, size

    def test_alexnets_original_stem_equals_torchvisions(self) -> None:
        with torch.device("meta"):
            own = torchvision.models.alexnet(num_classes=1000)
            ours = alexnet.alexnet(num_classes=1000)
            assert shapes(own) == shapes(ours)
            assert ours(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
        assert str(own) == str(ours)


NAMES_WITH_FAMILY = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x0_5",
    "efficientnet_b0",
    "efficientnet_b3",
    "efficientnet_b5",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "vgg11",
    "vgg16_bn",
    "vit_b_16",
    "alexnet",
)


@pytest.mark.parametrize("name", NAMES_WITH_FAMILY)
def test_width_and_depth_one_build_torchvisions_network(name: str) -> None:
    spec = ModelSpec(name=name, classes=1000, channels=3, size=224)
    with torch.device("meta"):
        ours, own = family_of(name).build(spec), torchvision.models.get_model(name)
    assert shapes(ours) == shapes(own)
    assert str(ours).replace("NarrowResNet", "ResNet") == str(own)


@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "regnet_x_400mf", "mnasnet0_5", "densenet121", "googlenet"]
)
def test_a_name_without_a_family_uses_torchvisions_constructor(name: str) -> None:
    made = student(name, 32, 1, 6, width=1.0).eval()
    assert made(torch.randn(2, 1, 32, 32)).logits.shape == (2, 6)


@pytest.mark.parametrize(("stem", "quick"), [("small", True), ("original", False)])
def test_small_networks_have_a_momentum_of_at_least_a_tenth(stem: str, quick: bool) -> None:
    made = student("mnasnet0_5", 64, width=1.0, stem=stem)
    momenta = [module.momentum for module in made.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all((momentum is not None and momentum >= 0.1) is quick for momentum in momenta)


def test_every_family_is_a_name_of_torchvision() -> None:
    names = known_names("resnet18")
    for name in NAMES_WITH_FAMILY:
        assert name in names


class TestStrides:
    @settings(deadline=None)
    @given(size=st.integers(4, 96))
    def test_halvings_leave_two_to_six_positions(self, size: int) -> None:
        left = size / 2 ** strides.halvings(size)
        assert 1.4 <= left < 6

    @given(size=st.integers(4, 512))
    def test_pools_of_alexnet_leave_at_least_three_positions(self, size: int) -> None:
        assert size / 2 ** alexnet.pools_for(size) >= 2.8

    @pytest.mark.parametrize(
        ("stem", "size", "small"),
        [("auto", 64, True), ("auto", 65, False), ("small", 224, True), ("original", 8, False)],
    )
    def test_stem_auto_is_small_up_to_64_pixels(self, stem: str, size: int, small: bool) -> None:
        assert strides.wants_small_stem(stem, size) is small

    def test_levels_of_a_resnet_contain_branch_and_shortcut(self) -> None:
        with torch.device("meta"):
            levels = strides.strided_levels(torchvision.models.resnet18())
        assert levels == [
            ["conv1"],
            ["maxpool"],
            *([f"layer{i}.0.conv1", f"layer{i}.0.downsample.0"] for i in (2, 3, 4)),
        ]

    def test_fitting_strides_keeps_names_and_shapes_of_weights(self) -> None:
        with torch.device("meta"):
            net, own = torchvision.models.shufflenet_v2_x1_0(), torchvision.models.shufflenet_v2_x1_0()
            strides.fit_strides(net, 32)
        assert shapes(net) == shapes(own)

    def test_grey_images_change_only_the_first_kernel(self) -> None:
        with torch.device("meta"):
            net, own = torchvision.models.resnet18(), torchvision.models.resnet18()
            strides.set_input_channels(net, 1)
        ours, theirs = shapes(net), shapes(own)
        assert {name for name in ours if ours[name] != theirs[name]} == {"conv1.weight"}
        assert ours["conv1.weight"] == (64, 1, 7, 7)

    def test_input_channels_need_a_convolution(self) -> None:
        with pytest.raises(ValueError, match="no convolution"):
            strides.set_input_channels(torch.nn.Linear(2, 2), 1)


@given(size=st.integers(1, 256), patch=st.sampled_from([14, 16, 32]), small=st.booleans())
def test_the_patch_divides_the_image(size: int, patch: int, small: bool) -> None:
    assert size % transformers.patch_for(size, patch, small) == 0


@settings(max_examples=50)
@given(channels=st.floats(1, 2000), multiple=st.sampled_from([1, 2, 4, 8]))
def test_rounded_channels_are_multiples_near_the_given_number(channels: float, multiple: int) -> None:
    rounded = mobilenet.divisible(channels, multiple)
    assert rounded % multiple == 0
    assert rounded >= multiple
    assert rounded >= 0.9 * channels - 1e-9
    assert rounded <= max(multiple, 1.1 * channels + multiple)


def shapes(net: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
