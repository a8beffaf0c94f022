"""timm's networks by name: small inputs, arguments, settings, and their refusals."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tkd_search.config.experiment_file import load_config
from tkd_search.config.resolve import describe_student
from tkd_search.errors import UserError
from tkd_search.models import build_big_model, build_student
from tkd_search.models.architectures.timm_networks import timm, timm_names
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.models.student import Student
from tkd_search.models.weights import load_weights, save_weights

VIT = {"embed_dim": 48, "depth": 2}


def student(name: str, size: int = 32, channels: int = 3, **knobs: object) -> Student:
    settings = StudentSettings(name=f"timm/{name}", **knobs)
    return build_student(settings, classes=10, channels=channels, size=size)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3)])
@pytest.mark.parametrize(
    ("name", "args"), [("lcnet_050", {}), ("vit_tiny_patch16_224", VIT), ("mobilenetv3_small_050", {})]
)
def test_every_input_size_gives_logits(name: str, args: dict[str, object], size: int, channels: int) -> None:
    output = student(name, size, channels, args=args).train()(torch.randn(3, channels, size, size))
    assert output.logits.shape == (3, 10)
    assert output.logits.isfinite().all()


def test_strides_are_fitted_to_small_images_unless_the_stem_is_original() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert student("lcnet_050").model.forward_features(images).shape[-1] == 4
    assert student("lcnet_050", stem="original").model.forward_features(images).shape[-1] == 1


def test_patches_are_fitted_to_small_images_unless_they_are_given() -> None:
    name = "vit_tiny_patch16_224"
    assert student(name, args=VIT).model.patch_embed.patch_size == (4, 4)
    assert student(name, args=VIT, stem="original").model.patch_embed.patch_size == (16, 16)
    assert student(name, args={**VIT, "patch_size": 8}).model.patch_embed.patch_size == (8, 8)


def test_the_original_stem_is_timms_network() -> None:
    ours = student("lcnet_050", stem="original").model
    theirs = timm().create_model("lcnet_050", num_classes=10)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        student("mobilenetv3_smal_050")
    assert caught.value.where == "student.name"
    assert "timm/mobilenetv3_small_050" in caught.value.hint


@pytest.mark.parametrize("key", ["pretrained", "surprise", "num_classes", "features_only", "checkpoint_path"])
def test_arguments_that_are_unknown_or_load_weights_are_refused(key: str) -> None:
    with pytest.raises(UserError) as caught:
        student("lcnet_050", args={key: True})
    assert caught.value.where == "student.args"
    assert key in caught.value.found
    assert "drop_rate" in caught.value.allowed


@pytest.mark.parametrize(
    ("name", "args"), [("repvgg_a0", {"stem_chs": 16}), ("regnetx_002", {"se_ratio": 0.25})]
)
def test_arguments_of_a_networks_configuration_are_taken(name: str, args: dict[str, object]) -> None:
    with torch.device("meta"):
        assert student(name, args=args, stem="original").model.num_classes == 10


def test_a_width_is_refused() -> None:
    settings = BigModelSettings(name="timm/lcnet_050", width=0.5)
    with pytest.raises(UserError, match="no width"):
        build_big_model(settings, classes=4, channels=3, size=32)


def test_the_description_of_a_student_has_its_arguments_and_no_width() -> None:
    config = load_config(None, ["student.name=timm/resnet10t", "student.args={channels: [8, 8, 16, 16]}"])
    assert describe_student(config.settings()) == "timm/resnet10t channels=[8, 8, 16, 16]"


def test_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    first, second = student("lcnet_050"), student("lcnet_050")
    save_weights(first.model, tmp_path / "model.safetensors")
    load_weights(second.model, tmp_path / "model.safetensors")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(first.eval()(images).logits, second.eval()(images).logits)


def test_every_network_of_timm_has_a_name_here() -> None:
    assert f"timm/{timm().list_models('resnet18')[0]}" in timm_names()
    assert isinstance(student("lcnet_050").model, nn.Module)
