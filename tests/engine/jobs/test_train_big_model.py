"""Training, fine-tuning or loading a big model in one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.engine.jobs.group import Group, settings_of
from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data
from tkd_search.data.prepared_files import save_prepared
from tkd_search.engine.jobs import caches, train_big_model
from tkd_search.engine.jobs.dispatch import run_job
from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.models import build_big_model
from tkd_search.models.weights import save_weights


def test_a_loaded_big_model_is_evaluated_on_the_device_of_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_config(None, ["big_model.width=0.1"]).settings()
    save_prepared(load_data(settings.data), tmp_path / "data")
    weights = tmp_path / "f.safetensors"
    save_weights(build_big_model(settings.big_models[0], classes=10, channels=1, size=8).model, weights)
    devices = []

    def record_device(model: Any, batches: Any, metric: str) -> float:
        devices.append(next(model.parameters()).device.type)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_big_model, "evaluate", record_device)
    job = {
        "kind": "big_model", "settings": settings_of(["big_model.width=0.1", f"big_model.weights={weights}"]),
        "index": 0, "data": str(tmp_path / "data"), "folder": str(tmp_path / "f"),
        "checkpoint": str(tmp_path / "c"),
    }  # fmt: skip
    context = JobContext(rank=0, workers=1, device="meta", push=print, should_stop=lambda: False)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, context)
    assert devices == ["meta"]


class TestFineTuning:
    """F is a ResNet-18 for 7 classes, given by file; the digits have 10."""

    SETTINGS = (
        *("big_model.name=resnet18", "big_model.width=0.05", "big_model.epochs=2", "big_model.head_epochs=1"),
        "big_model.batch_size=256",
    )

    def given(self, folder: Path) -> list[str]:
        settings = load_config(None, self.SETTINGS).settings()
        if not (folder / "data").exists():
            save_prepared(load_data(settings.data), folder / "data")
            model = build_big_model(settings.big_models[0], classes=7, channels=1, size=8).model
            save_weights(model, folder / "f.safetensors")
        return [*self.SETTINGS, f"big_model.weights={folder / 'f.safetensors'}"]

    def tuned(self, folder: Path, name: str, group: Group, *overrides: str) -> dict[str, Tensor]:
        job = {
            "kind": "big_model", "settings": settings_of([*self.given(folder), *overrides]), "index": 0,
            "data": str(folder / "data"), "folder": str(folder / name),
            "checkpoint": str(folder / f"{name}-checkpoint"),
        }  # fmt: skip
        run_job(job, group.context())
        file = folder / name / "model.safetensors"
        return load_file(file) if file.exists() else {}

    def test_the_head_is_replaced_and_all_layers_are_tuned(self, tmp_path: Path) -> None:
        group = Group()
        tuned = self.tuned(tmp_path, "f", group, "big_model.layer_decay=0.5")
        before = load_file(tmp_path / "f.safetensors")
        assert group.results[0]["kind"] == "fine_tuning"
        assert group.epochs() == [1, 2]
        assert tuned["fc.weight"].shape[0] == 10
        changes = {
            name: float((tuned[name] - before[name]).norm() / before[name].norm())
            for name in ("conv1.weight", "layer4.1.conv2.weight")
        }
        assert 0 < changes["conv1.weight"] < changes["layer4.1.conv2.weight"]
        settings = load_config(None, self.given(tmp_path)).settings()
        (model,) = caches.big_models_at(
            settings.big_models, str(tmp_path / "data"), [str(tmp_path / "f")], "cpu"
        )
        assert all(torch.equal(tuned[name], tensor) for name, tensor in model.model.state_dict().items())

    def test_an_interrupted_fine_tuning_ends_as_if_it_was_not(self, tmp_path: Path) -> None:
        whole = self.tuned(tmp_path, "whole", Group())
        assert not self.tuned(tmp_path, "parts", Group(stop_after=1))
        resumed = Group()
        parts = self.tuned(tmp_path, "parts", resumed)
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole)

    def test_the_head_alone_learns_first(self, tmp_path: Path) -> None:
        tiny = ("big_model.epochs=1", "big_model.layer_decay=1e-9", "big_model.weight_decay=0")
        tuned = self.tuned(tmp_path, "f", Group(), *tiny)
        before = load_file(tmp_path / "f.safetensors")
        for name, tensor in before.items():
            if name.endswith("weight") and name != "fc.weight":
                torch.testing.assert_close(tuned[name], tensor, atol=1e-6, rtol=1e-6)
        untrained = self.tuned(tmp_path, "untrained", Group(), *tiny, "big_model.head_epochs=0")
        assert not torch.allclose(tuned["fc.weight"], untrained["fc.weight"], atol=1e-3)

    def test_weights_for_the_same_classes_are_used_as_they_are(self, tmp_path: Path) -> None:
        self.given(tmp_path)
        settings = load_config(None, self.SETTINGS).settings()
        model = build_big_model(settings.big_models[0], classes=10, channels=1, size=8).model
        save_weights(model, tmp_path / "f.safetensors")
        kept = self.tuned(tmp_path, "kept", Group())
        before = load_file(tmp_path / "f.safetensors")
        assert all(torch.equal(kept[name], before[name]) for name in before)
        tuned = self.tuned(tmp_path, "tuned", Group(), "big_model.fine_tune=true", "big_model.epochs=1")
        assert not torch.equal(tuned["conv1.weight"], before["conv1.weight"])
