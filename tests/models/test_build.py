"""Wrong names, arguments and networks are user errors; imported functions get their own arguments."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tkd_search.errors import UserError
from tkd_search.export.onnx_file import verify
from tkd_search.export.shipping import write_files
from tkd_search.formats import unpack
from tkd_search.models import build_big_model, build_student, save_weights
from tkd_search.models.architectures.arguments import check_arguments
from tkd_search.models.architectures.families import ModelSpec
from tkd_search.models.model_settings import BigModelSettings, StudentSettings

ONE_OF_EACH_FAMILY = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet"),
    *("inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf"),
    *("resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vit_b_16"),
    *("wide_resnet50_2", "timm/lcnet_050"),
)

DATA = {"classes": 4, "channels": 3, "size": 16}


def refused(error_at: str, **settings: object) -> UserError:
    with pytest.raises(UserError) as caught:
        build_student(StudentSettings(**settings), **DATA)
    assert caught.value.where == error_at
    return caught.value


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    assert "mobilenet_v2" in refused("student.name", name="mobilenetv2").hint


def test_a_detector_is_refused() -> None:
    refused("student.name", name="fasterrcnn_resnet50_fpn")


@pytest.mark.parametrize(("stem", "kernel"), [("original", 7), ("small", 3)])
def test_stem_auto_is_the_stem_of_the_weights(tmp_path: Path, stem: str, kernel: int) -> None:
    trained = build_big_model(BigModelSettings(name="resnet18", width=0.1, stem=stem), **DATA)
    save_weights(trained.model, tmp_path / "f.safetensors")
    auto = BigModelSettings(name="resnet18", width=0.1, weights=str(tmp_path / "f.safetensors"))
    made = build_big_model(auto, **DATA)
    assert made.model.get_parameter("conv1.weight").shape[-1] == kernel
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(made.eval()(images).logits, trained.eval()(images).logits)


def test_stem_auto_is_refused_for_weights_that_fit_both_stems(tmp_path: Path) -> None:
    trained = build_big_model(BigModelSettings(name="shufflenet_v2_x0_5", stem="original"), **DATA)
    save_weights(trained.model, tmp_path / "f.safetensors")
    auto = BigModelSettings(name="shufflenet_v2_x0_5", weights=str(tmp_path / "f.safetensors"))
    with pytest.raises(UserError) as caught:
        build_big_model(auto, **DATA)
    assert caught.value.where == "big_model.stem"
    chosen = build_big_model(replace(auto, stem="original"), **DATA)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(chosen.eval()(images).logits, trained.eval()(images).logits)


def test_an_unknown_argument_is_refused() -> None:
    assert "surprise" in refused("student.args", args={"surprise": 1}).found
    # timm does not name the class of this one: its constructor refuses.
    assert "surprise" in refused("student.args", name="timm/repvit_m0_9", args={"surprise": 1}).found


@pytest.mark.parametrize("key", ["surprise", "weights", "num_classes", "progress"])
@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_every_family_refuses_arguments_that_it_would_ignore(name: str, key: str) -> None:
    spec = ModelSpec(name=name, classes=4, channels=3, size=32, args={key: None})
    with pytest.raises(UserError) as caught:
        check_arguments(spec, "big_model")
    assert caught.value.where == "big_model.args"
    assert key in caught.value.found
    assert f"arguments of {name}" in caught.value.allowed


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("timm/repvit_m0_9", {"drop_rate": 0.1}),
        ("mobilenet_v2", {"last_channels": 64}),
        ("mobilenet_v3_small", {"dropout": 0.1, "stride_order": [0, 1, 2, 3, 4]}),
        ("vit_b_16", {"patch_size": 4, "num_layers": 1}),
        ("efficientnet_b0", {"stochastic_depth_prob": 0.1}),
        ("squeezenet1_1", {"dropout": 0.1}),
    ],
)
def test_arguments_of_a_family_are_taken(name: str, args: dict[str, object]) -> None:
    with torch.device("meta"):
        build_student(StudentSettings(name=name, width=0.25, args=args), classes=4, channels=3, size=32)


def test_a_wrong_argument_of_a_users_function_is_refused() -> None:
    refused("student.args", name="tests.models.nets:tiny", args={"depth": 3})


@pytest.mark.parametrize("error", ["KeyError", "ZeroDivisionError", "RuntimeError"])
def test_any_error_of_a_users_constructor_is_a_user_error(error: str) -> None:
    assert "x" in refused("student.args", name="tests.models.nets:broken", args={"error": error}).found


def test_a_network_that_fails_without_a_message_is_refused() -> None:
    assert (
        "AssertionError"
        in refused("student.name", name="tests.models.nets:broken", args={"error": "forward"}).found
    )


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("nowhere.to_be:found", "nowhere"),
        ("tests.models.nets:gone", "gone"),
        ("tests.models.nets:", "callable"),
    ],
)
def test_an_import_path_that_does_not_exist_is_refused(name: str, part: str) -> None:
    assert part in refused("student.name", name=name).found


def test_a_function_that_returns_no_network_is_refused() -> None:
    assert "str" in refused("student.name", name="tests.models.nets:not_a_network").found


def test_a_network_with_another_number_of_classes_is_refused() -> None:
    assert "5 logits" in refused("student.name", name="tests.models.nets:wrong_classes").found


def test_a_network_that_cannot_run_on_such_images_is_refused() -> None:
    error = refused("student.name", name="tests.models.nets:tiny", args={"channels": 1})
    assert "3 × 16 × 16" in error.found


def test_a_width_is_refused_for_a_big_model_without_one() -> None:
    with pytest.raises(UserError, match="no width"):
        build_big_model(BigModelSettings(name="densenet121", width=0.5), **DATA)


def test_an_imported_function_gets_its_arguments_and_the_number_of_classes() -> None:
    settings = StudentSettings(name="tests.models.nets:tiny", args={"width": 9})
    student = build_student(settings, **DATA)
    assert student.feature_width == 9
    assert student(torch.randn(2, 3, 16, 16)).logits.shape == (2, 4)


def test_a_class_can_be_imported() -> None:
    made = build_big_model(BigModelSettings(name="tests.models.nets:FunctionalPool"), **DATA)
    assert made.roles.maps is not None


class Pair(torch.nn.Module):
    """A network that returns its features too."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 6, 3)
        self.head = torch.nn.Linear(6, num_classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.stem(images).relu().mean((2, 3))
        return self.head(features), features


def test_a_network_that_returns_more_than_logits_is_exported_with_its_logits(tmp_path: Path) -> None:
    import onnx

    student = build_student(StudentSettings(name="tests.models.test_build:Pair"), **DATA).eval()
    exported = write_files(student.model, "fp16", student.input_shape, tmp_path)
    loaded = unpack(load_file(tmp_path / "model.safetensors"), student.model, "fp16")
    images = torch.randn(8, 3, 16, 16)
    assert verify(exported, loaded, images, "fp16").same == 8
    assert len(onnx.load(tmp_path / "model.onnx").graph.output) == 1
