"""The stages around the trials, each a job on a warm worker group: the big model, the bank, the test.

A stage whose result is on disk is skipped: results are kept by what they depend on, so that searches over
the same data share one F and one bank.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ray.actor import ActorHandle

from tkd_search.config import Config, Settings
from tkd_search.data import DataBundle, load_data
from tkd_search.data.bank_store import bank_key
from tkd_search.data.prepared import save_prepared
from tkd_search.errors import UserError
from tkd_search.records import BigModelRecord
from tkd_search.search.broker import SlotClient
from tkd_search.search.jobs import job_config
from tkd_search.search.progress import Progress


@dataclass(frozen=True)
class Prepared:
    """What the trials of a search share, as folders that every worker can read."""

    data: DataBundle
    data_folder: Path
    big_model_files: tuple[Path, ...]
    big_model: BigModelRecord
    bank_folder: Path

    def common_job(self, config: Config) -> dict[str, Any]:
        """The part of a job that is the same for every trial."""
        return {
            "config": job_config(config),
            "data": str(self.data_folder),
            "bank": str(self.bank_folder),
            "big_models": [str(file) for file in self.big_model_files],
        }


def store_data(bundle: DataBundle, cache: Path) -> Path:
    """Store a data set once, for workers to map; the folder."""
    folder = cache / f"data-{bundle.digest[:16]}"
    if not folder.exists():  # it appears whole or not at all
        save_prepared(bundle, folder)
    return folder


def prepare_big_models(
    config: Config, data: DataBundle, data_folder: Path, cache: Path, broker: ActorHandle, progress: Progress
) -> tuple[tuple[Path, ...], BigModelRecord]:
    """Train or load every F; files of their weights, and the figures of the first.

    F is trained on the whole training part, also where the students get only some of it.
    """
    settings = config.settings()
    if settings.data.train_limit is not None:
        data = load_data(replace(settings.data, train_limit=None))
        data_folder = store_data(data, cache)
    files, figures = [], []
    for index, model in enumerate(settings.big_models):
        folder = cache / f"big_model-{big_model_key(settings, index, data)}"
        if not (folder / "figures.json").exists():
            progress.stage(f"big model {model.name}", model.epochs if model.weights is None else None)
            job = {
                "kind": "big_model",
                "config": job_config(config),
                "index": index,
                "data": str(data_folder),
                "folder": str(folder),
            }
            for result in run_stage(broker, job):
                if result["kind"] == "epoch":
                    progress.advance(result["epoch"], f"validation {result['val_accuracy']:.2%}")
        files.append(folder / "model.safetensors")
        figures.append(BigModelRecord(**json.loads((folder / "figures.json").read_text())))
    _warn_at_chance(figures, data, progress)
    return tuple(files), figures[0]


def prepare_bank(
    config: Config,
    data: DataBundle,
    data_folder: Path,
    big_models: tuple[Path, ...],
    cache: Path,
    broker: ActorHandle,
    progress: Progress,
) -> Path:
    """Compute the bank once for data, F, taps and views (statistics alone where F runs live)."""
    settings = config.settings()
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in big_models]
    folder = cache / f"bank-{bank_key(data.digest, digests, settings.bank, settings.data, settings.seed)}"
    if not folder.exists():
        progress.stage("bank", None)
        job = {
            "kind": "bank",
            "config": job_config(config),
            "data": str(data_folder),
            "big_models": [str(file) for file in big_models],
            "folder": str(folder),
        }
        for result in run_stage(broker, job):
            if result["kind"] == "progress":
                progress.stage("bank", result["total"])
                progress.advance(result["done"])
    return folder


def run_stage(broker: ActorHandle, job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Run one job on a free group and yield its results up to and including ``done``.

    Raises:
        UserError: the job failed, with its reason.
    """
    client = SlotClient(broker, holder=str(job["kind"]), timeout=600.0)
    try:
        client.post(dict(job))
        while True:
            result = client.pull(5.0)
            if result is None:
                continue
            if result["kind"] == "failed":
                raise UserError(
                    f"stage {job['kind']}", result["reason"], "a stage that ends", result["trace"]
                )
            yield result
            if result["kind"] == "done":
                return
    finally:
        client.release()


def big_model_key(settings: Settings, index: int, data: DataBundle) -> str:
    """What one F depends on: data, its settings, the seed, the file it is loaded from."""
    model = settings.big_models[index]
    parts: dict[str, Any] = {
        "data": data.digest,
        "settings": asdict(model),
        "seed": settings.seed,
        "augment": settings.data.augment,
    }
    if model.weights and Path(model.weights).is_file():
        parts["file"] = hashlib.sha256(Path(model.weights).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _warn_at_chance(figures: list[BigModelRecord], data: DataBundle, progress: Progress) -> None:
    for record in figures:
        if record.val_accuracy < 2.0 / data.num_classes:
            progress.note(
                f"warning: {record.name} is near chance on validation ({record.val_accuracy:.1%}, chance "
                f"{1 / data.num_classes:.1%}): check its preprocessing and the order of its classes"
            )
