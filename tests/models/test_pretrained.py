"""Pretrained weights by name: torchvision's, timm's, and a clear error without a network."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tkd_search.errors import UserError
from tkd_search.models.architectures.timm_networks import pretrained_tags
from tkd_search.models.build import build_big_model, is_trained, load_big_model
from tkd_search.models.model_settings import BigModelSettings
from tkd_search.models.pretrained import named_state, normalisation_of
from tkd_search.models.size import shipping_state
from tkd_search.models.student import Student
from tkd_search.models.torchvision_compat import torchvision
from tkd_search.models.weights import save_weights


def stored(module: torch.nn.Module) -> bytes:
    return save(shipping_state(module))


class TestTorchvision:
    def test_an_unknown_name_is_refused_with_known_names(self) -> None:
        with pytest.raises(UserError, match="IMAGENET1K_V1"):
            named_state("IMAGENET9", name="resnet18", where="big_model.weights")

    @pytest.mark.parametrize("spelled", ["IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1", "DEFAULT"])
    def test_a_file_in_torchs_cache_is_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
    ) -> None:
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
        entry = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
        (tmp_path / "checkpoints").mkdir()
        own = torchvision.models.squeezenet1_1()
        torch.save(own.state_dict(), tmp_path / "checkpoints" / Path(entry.url).name)
        settings = BigModelSettings(name="squeezenet1_1", weights=spelled)
        model = build_big_model(settings, classes=1000, channels=3, size=96)
        assert stored(model.model) == stored(own)
        few, head = load_big_model(settings, classes=10, channels=3, size=96)
        assert head.classes == 1000
        assert is_trained(settings, head)
        assert few(torch.zeros(2, 3, 96, 96)).logits.shape == (2, 10)

    def test_a_folder_of_that_name_is_not_taken_for_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("pretrained").mkdir()
        assert normalisation_of("resnet18", "pretrained") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def test_a_failed_download_is_a_user_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
        with pytest.raises(UserError, match="checkpoints"):
            named_state("IMAGENET1K_V1", name="squeezenet1_1", where="big_model.weights")


class TestTimm:
    def test_the_default_tag_is_first(self) -> None:
        assert pretrained_tags("timm/mobilenetv3_small_050")[0] == "lamb_in1k"

    @pytest.mark.parametrize("name", ["lcnet_050", "resnet10t"])
    def test_an_unknown_tag_is_refused_with_known_tags(self, name: str) -> None:
        with pytest.raises(UserError) as caught:
            named_state("in9k", name=f"timm/{name}", where="big_model.weights")
        assert pretrained_tags(f"timm/{name}")[0] in caught.value.allowed

    def test_a_failed_download_names_the_file_to_put_in_its_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(UserError) as caught:
            named_state("pretrained", name="timm/lcnet_050", where="big_model.weights")
        assert "model.safetensors of timm/lcnet_050.ra2_in1k" in caught.value.hint

    def test_a_file_of_a_timm_network_gets_a_new_head(self, tmp_path: Path) -> None:
        given = build("timm/lcnet_050", classes=7)
        save_weights(given.model, tmp_path / "f.safetensors")
        settings = BigModelSettings(
            name="timm/lcnet_050", weights=str(tmp_path / "f.safetensors"), stem="small"
        )
        loaded, head = load_big_model(settings, classes=5, channels=3, size=32)
        assert head.classes == 7
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(loaded.eval()(images).features, given.eval()(images).features)

    def test_positions_of_a_vit_are_resampled_to_another_image_size(self, tmp_path: Path) -> None:
        name, args = "timm/vit_tiny_patch16_224", {"embed_dim": 48, "depth": 1}
        settings = BigModelSettings(name=name, args=args, stem="original")
        given = build_big_model(settings, classes=7, channels=3, size=64)
        save_weights(given.model, tmp_path / "f.safetensors")
        settings = BigModelSettings(
            name=name, args=args, stem="original", weights=str(tmp_path / "f.safetensors")
        )
        loaded, head = load_big_model(settings, classes=5, channels=3, size=96)
        assert head.classes == 7
        assert loaded.model.pos_embed.shape[1] == 1 + 6 * 6
        assert loaded(torch.zeros(2, 3, 96, 96)).logits.shape == (2, 5)


def build(name: str, classes: int) -> Student:
    return build_big_model(BigModelSettings(name=name), classes=classes, channels=3, size=32)
