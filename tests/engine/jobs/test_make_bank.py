"""Computing the bank: in several parts it is the same as in one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.jobs.group import Group, settings_of
from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data
from tkd_search.data.bank_files import load_bank
from tkd_search.data.prepared_files import save_prepared
from tkd_search.engine.jobs.dispatch import run_job
from tkd_search.engine.jobs.make_bank import part_files
from tkd_search.models import build_big_model
from tkd_search.models.weights import save_weights

SETTINGS = ["big_model.width=0.1", "data.views=2", "bank.grid=2", "method.local=4"]
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


def run(place: Path, kind: str, folder: str, **more: Any) -> list[dict[str, Any]]:
    group = Group()
    job = {
        "kind": kind, "settings": settings_of(SETTINGS), "data": str(place / "data"),
        "big_models": [str(place / "f")], "folder": str(place / folder), "cache": str(place / "cache"),
        "key": "k", **more,
    }  # fmt: skip
    run_job(job, group.context())
    return group.results


@pytest.mark.parametrize("taps", ["auto", ""])
def test_a_bank_in_parts_equals_the_bank_in_one_part(place: Path, taps: str) -> None:
    whole_folder, parts_folder = f"whole{taps}", f"parts{taps}"
    settings, key = settings_of([*SETTINGS, f"bank.taps=[{taps}]"]), f"k{taps}"
    job: dict[str, Any] = {"settings": settings, "parts": 3, "key": key}
    run(place, "bank", whole_folder, **job)
    for first in (2, 0, 1):
        run(place, "survey", parts_folder, first=first, **job)
    for kind, numbers in (("bank_part", (1, 0, 2)), ("survey", (0,)), ("bank_part", (0,))):
        for first in numbers:
            run(place, kind, parts_folder, first=first, **job)
    # A job runs again where its group was lost after its work, or its search was killed.
    assert [r["kind"] for r in run(place, "bank_part", parts_folder, first=0, **job)] == ["done"]
    for _ in range(2):
        assert run(place, "assemble", parts_folder, **job)[-1]["kind"] == "done"
    whole, parts = load_bank(place / whole_folder), load_bank(place / parts_folder)
    assert bool(whole.taps) == bool(taps)
    assert (whole.cells is not None) == bool(taps)
    assert parts.meta()["taps"] == whole.meta()["taps"]
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(parts.tensors()[name], tensor, rtol=1e-2, atol=1e-2, msg=name)
    files = (place / "cache").glob(f"bank-{key}-*")
    assert sorted(part_files({**job, "cache": str(place / "cache")})) == sorted(map(str, files))


def test_joining_fewer_parts_than_the_bank_has_is_refused(place: Path) -> None:
    for first in range(2):
        run(place, "survey", "half", first=first, parts=2, key="half")
    run(place, "bank_part", "half", first=0, parts=2, key="half")
    with pytest.raises(ValueError, match="parts hold"):
        run(place, "assemble", "half", parts=1, key="half")


def test_progress_of_a_part_ends_with_its_rows(place: Path) -> None:
    rows = load_data(CONFIG.settings().data).train.labels.shape[0] * 2
    progress = [
        r for r in run(place, "survey", "again", first=1, parts=2, key="again") if r["kind"] == "progress"
    ]
    assert progress[-1]["done"] == progress[-1]["total"] == rows - rows // 2


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "workers"), [(2, 1), (1, 2)])
def test_several_groups_or_several_ranks_compute_the_same_bank(
    local_ray: None, place: Path, tmp_path: Path, slots: int, workers: int
) -> None:
    from tkd_search.config.search_settings import ResourceSettings
    from tkd_search.engine.pipeline import prepare_bank
    from tkd_search.engine.workers.pool import open_pool

    class Stages:
        """Records the stages of the progress display."""

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
        banks, progress = {}, Stages()
        for parts in (1, 2):
            cache = str(tmp_path / f"cache{parts}")
            made = prepare_bank(
                config, data, str(place / "data"), (str(place / "f"),), cache, queue, progress, parts=parts
            )
            banks[parts] = load_bank(made)
            assert [file.name for file in Path(cache).glob("[!.]*")] == [Path(made).name]
        assert "bank in 2 parts" in progress.stages
    for name, tensor in banks[1].tensors().items():
        torch.testing.assert_close(banks[2].tensors()[name], tensor, rtol=1e-2, atol=1e-2, msg=name)


@pytest.mark.parametrize(
    ("settings", "views", "taps"),
    [
        (["data.augment=none", "method.beta=0"], 1, True),
        (["method.name=kd", "data.views=32", "data.randaugment=1", "data.erasing=0.25"], 32, False),
        (["method.name=kd", "data.views=0", "data.augment=resized_crop", "training.mixup=0.2"], 0, False),
        (["method.name=tkd", "data.views=0", "training.cutmix=1", "training.precision=bf16"], 0, True),
    ],
)
def test_a_trial_can_use_the_bank_of_its_recipe(
    place: Path, tmp_path: Path, settings: list[str], views: int, taps: bool
) -> None:
    chosen = [*SETTINGS, "training.epochs=1", "student.width=0.1", *settings]
    run(place, "bank", str(tmp_path / "bank"), settings=settings_of(chosen))
    bank = load_bank(tmp_path / "bank")
    assert bank.views == views
    assert len(bank.logits) == views * len(bank.labels)
    assert bool(bank.taps) == taps
    results = run(
        place,
        "trial",
        str(tmp_path / "trial"),
        settings=settings_of(chosen),
        trial_id="t0000",
        bank=str(tmp_path / "bank"),
        after_epoch=0,
        levels=[],
    )
    assert results[-1]["kind"] == "done"
