"""The bank as worker groups make it, here in one process: in parts or as a whole it is the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tkd_search.config import load_config
from tkd_search.data import load_data
from tkd_search.data.bank_store import load_bank
from tkd_search.data.prepared import save_prepared
from tkd_search.models import build_big_model
from tkd_search.models.weights import save_weights
from tkd_search.search.job_context import JobContext
from tkd_search.search.jobs import job_config, run_job

CONFIG = load_config(None, ["big_model.width=0.1", "data.views=2", "bank.grid=2"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    settings = CONFIG.settings()
    data = load_data(settings.data)
    save_prepared(data, folder / "data")
    torch.manual_seed(0)
    model = build_big_model(
        settings.big_models[0], classes=data.num_classes, channels=data.channels, size=data.size
    )
    (folder / "f").mkdir()
    save_weights(model.model, folder / "f" / "model.safetensors")
    return folder


def run(place: Path, kind: str, bank: str, **more: Any) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    job = {
        "kind": kind, "config": job_config(CONFIG), "data": str(place / "data"), "key": "k",
        "big_models": [str(place / "f")], "folder": str(place / bank), "cache": str(place / "cache"), **more,
    }  # fmt: skip
    run_job(job, JobContext(0, 1, "cpu", results.append, lambda: False))
    return results


def test_parts_put_together_are_the_bank_that_one_group_makes(place: Path) -> None:
    run(place, "bank", "whole")
    for first in (2, 0, 1):
        run(place, "survey", "parts", first=first, parts=3)
    ends = [run(place, "bank_part", "parts", first=first, parts=3)[-1] for first in range(3)]
    run(place, "assemble", "parts", parts=3, meta=ends[2]["meta"])
    whole, parts = load_bank(place / "whole"), load_bank(place / "parts")
    assert parts.meta()["taps"] == whole.meta()["taps"]
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(parts.tensors()[name], tensor, rtol=1e-2, atol=1e-2, msg=name)
    assert not list((place / "cache").iterdir()), "what was made on the way is gone"


def test_progress_of_a_part_ends_with_its_rows(place: Path) -> None:
    rows = load_data(CONFIG.settings().data).train.labels.shape[0] * 2
    told = [r for r in run(place, "survey", "again", first=1, parts=2) if r["kind"] == "progress"]
    assert told[-1]["done"] == told[-1]["total"] == rows - rows // 2
