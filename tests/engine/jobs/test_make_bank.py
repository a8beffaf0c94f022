"""The bank as worker groups make it, here in one process: in parts or as a whole it is the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data
from tkd_search.data.bank_files import load_bank
from tkd_search.data.prepared_files import save_prepared
from tkd_search.engine.jobs.dispatch import job_config, run_job
from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.engine.jobs.make_bank import part_files
from tkd_search.models import build_big_model
from tkd_search.models.weights import save_weights

SETTINGS = ["big_model.width=0.1", "data.views=2", "bank.grid=2"]
CONFIG = load_config(None, SETTINGS)


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
    for _ in range(2):  # a group that was lost after its work: another has the job again
        assert run(place, "assemble", "parts", parts=3, meta=ends[2]["meta"])[-1]["kind"] == "done"
    whole, parts = load_bank(place / "whole"), load_bank(place / "parts")
    assert parts.meta()["taps"] == whole.meta()["taps"]
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(parts.tensors()[name], tensor, rtol=1e-2, atol=1e-2, msg=name)
    job = {"cache": str(place / "cache"), "key": "k", "parts": 3}
    assert sorted(part_files(job)) == sorted(map(str, (place / "cache").iterdir()))


def test_parts_that_are_not_all_of_it_are_refused(place: Path) -> None:
    for first in range(2):
        run(place, "survey", "half", first=first, parts=2, key="half")
    meta = run(place, "bank_part", "half", first=0, parts=2, key="half")[-1]["meta"]
    with pytest.raises(ValueError, match="parts hold"):
        run(place, "assemble", "half", parts=1, key="half", meta=meta)


def test_progress_of_a_part_ends_with_its_rows(place: Path) -> None:
    rows = load_data(CONFIG.settings().data).train.labels.shape[0] * 2
    told = [r for r in run(place, "survey", "again", first=1, parts=2) if r["kind"] == "progress"]
    assert told[-1]["done"] == told[-1]["total"] == rows - rows // 2


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "workers"), [(2, 1), (1, 2)])
def test_groups_and_their_ranks_make_it_together(
    local_ray: None, place: Path, tmp_path: Path, slots: int, workers: int
) -> None:
    from tkd_search.config.search_settings import ResourceSettings
    from tkd_search.engine.pipeline import prepare_bank
    from tkd_search.engine.workers.pool import open_pool

    class Told:
        def __init__(self) -> None:
            self.stages: list[str] = []

        def stage(self, name: str, total: int | None) -> None:
            self.stages.append(name)

        def advance(self, done: int, text: str = "") -> None:
            assert done > 0

    config = load_config(None, [*SETTINGS, f"resources.workers_per_trial={workers}"])
    resources = ResourceSettings(workers_per_trial=workers)
    data = load_data(config.settings().data)
    with open_pool(resources, slots, tmp_path / "train") as (queue, pool):
        pool.wait(120, groups=slots)
        banks, told = {}, Told()
        for parts in (1, 2):
            cache = str(tmp_path / f"cache{parts}")
            made = prepare_bank(
                config, data, str(place / "data"), (str(place / "f"),), cache, queue, told, parts=parts
            )
            banks[parts] = load_bank(made)
            assert [file.name for file in Path(cache).iterdir()] == [Path(made).name]
        assert "bank in 2 parts" in told.stages
    for name, tensor in banks[1].tensors().items():
        torch.testing.assert_close(banks[2].tensors()[name], tensor, rtol=1e-2, atol=1e-2, msg=name)


def test_images_that_are_not_augmented_are_banked_once(place: Path) -> None:
    plain = job_config(load_config(None, [*SETTINGS, "data.augment=none"]))
    run(place, "bank", "plain", config=plain)
    bank = load_bank(place / "plain")
    assert bank.views == 1
    assert len(bank.features) == len(bank.labels)
    results: list[dict[str, Any]] = []
    train = {
        "kind": "trial",
        "trial_id": "t0000",
        "point": {},
        "folder": str(place / "trial"),
        "bank": str(place / "plain"),
    }
    short = ["training.epochs=1", "method.beta=0", "search.pruner=never", "search.pruner_args={}"]
    config = job_config(load_config(None, [*SETTINGS, *short, "data.augment=none"]))
    job = {**train, "config": config, "data": str(place / "data"), "after_epoch": 0, "big_models": []}
    run_job(job, JobContext(0, 1, "cpu", results.append, lambda: False))
    assert results[-1]["kind"] == "done"
