"""Training or loading a big model in one process."""

from pathlib import Path
from typing import Any

import pytest

from tests.engine.jobs.group import settings_of
from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data
from tkd_search.data.prepared_files import save_prepared
from tkd_search.engine.jobs import train_big_model
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
