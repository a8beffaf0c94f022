"""The stages before the trials: data, big models and bank, and running a job on a worker group.

A stage whose result is stored is skipped. Results are stored under a hash of their inputs, so that searches
over the same data share one F and one bank. Places are strings: local folders or object storage.
"""

import contextlib
import hashlib
import importlib.util
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ray.actor import ActorHandle

from tkd_search import storage
from tkd_search.config.experiment_file import Config
from tkd_search.config.resolve import resolve
from tkd_search.config.sections import Settings
from tkd_search.config.settings_json import to_json
from tkd_search.data import DataBundle, load_data
from tkd_search.data.bank_files import bank_key
from tkd_search.data.prepared_files import image_roots, save_prepared
from tkd_search.engine.jobs.make_bank import part_files
from tkd_search.engine.progress import Progress
from tkd_search.engine.workers.queue_clients import LeaseClient
from tkd_search.engine.workers.slot import LeaseLostError
from tkd_search.errors import UserError
from tkd_search.files import disk_full_errors
from tkd_search.models.weights import weights_file
from tkd_search.results.json_values import from_plain
from tkd_search.results.records import BigModelRecord
from tkd_search.storage import remote_folders


@dataclass(frozen=True)
class Prepared:
    """Data, big models, bank and students' weights of a search, at places that every worker can read."""

    data: DataBundle
    data_folder: str
    big_model_folders: tuple[str, ...]
    big_model: BigModelRecord
    bank_folder: str
    student_weights: Mapping[str, str] = field(default_factory=dict)

    def trial_job(self, levels: Sequence[int] = ()) -> dict[str, Any]:
        """Return the part of a job that is the same for every trial; ``levels`` are the rungs' epochs."""
        return {
            "kind": "trial",
            "data": self.data_folder,
            "bank": self.bank_folder,
            "big_models": list(self.big_model_folders),
            "levels": list(levels),
            "student_weights": dict(self.student_weights),
        }


def store_data(bundle: DataBundle, cache: str) -> str:
    """Store a data set, unless it is stored, and return its place.

    Raises:
        DiskFullError: the disk is full.
    """
    place = storage.below(cache, "-".join(["data", bundle.digest[:16], *_root_digest(bundle)]))
    if not remote_folders.verify_folder(place):
        # Files for object storage are assembled in the local temporary folder first.
        with (
            disk_full_errors(storage.local_path(place) or Path(tempfile.gettempdir())),
            remote_folders.write_folder(place) as folder,
        ):
            save_prepared(bundle, folder)
    return place


def _root_digest(bundle: DataBundle) -> list[str]:
    """Return a hash of where images are that are read from their files: they may have moved; else []."""
    roots = image_roots(bundle)
    return [hashlib.sha256(json.dumps(roots).encode()).hexdigest()[:8]] if roots else []


def prepare_big_models(
    config: Config,
    data: DataBundle,
    data_folder: str,
    cache: str,
    queue: ActorHandle,
    progress: Progress,
    threads: int | None = None,
) -> tuple[tuple[str, ...], BigModelRecord]:
    """Train or load every F with ``threads`` threads.

    F is trained on the whole labelled training part, also where ``data.train_limit`` restricts the students.

    Returns:
        The places of the weights, and the figures of the first F.
    """
    settings = config.settings()
    if settings.data.train_limit is not None or settings.data.unlabelled is not None:
        data = load_data(replace(settings.data, train_limit=None, unlabelled=None))
        data_folder = store_data(data, cache)
    places, figures = [], []
    for index, model in enumerate(settings.big_models):
        place = storage.below(cache, f"big_model-{big_model_key(settings, index, data)}")
        if not remote_folders.verify_folder(place):
            stage = f"big model {model.name}"
            progress.stage(stage, model.epochs if model.weights is None else None)
            job = {
                "kind": "big_model",
                "settings": to_json(resolve(config)),
                "index": index,
                "data": data_folder,
                "folder": place,
                "threads": threads,
                "checkpoint": storage.below(cache, f"training-{big_model_key(settings, index, data)}"),
            }
            for result in run_stage(queue, job):
                if result["kind"] == "fine_tuning":
                    progress.stage(stage, model.epochs)
                if result["kind"] == "note":
                    progress.note(f"warning: {stage}: {result['text']}")
                if result["kind"] == "epoch":
                    progress.advance(result["epoch"], f"validation {result['val_accuracy']:.2%}")
        places.append(place)
        written = (remote_folders.fetch_folder(place) / "figures.json").read_text(encoding="utf-8")
        figures.append(from_plain(BigModelRecord, json.loads(written)))
    _warn_at_chance(figures, data, progress)
    return tuple(places), figures[0]


def prepare_bank(
    config: Config,
    data: DataBundle,
    data_folder: str,
    big_models: tuple[str, ...],
    cache: str,
    queue: ActorHandle,
    progress: Progress,
    threads: int | None = None,
    parts: int = 1,
) -> str:
    """Compute the bank for data, F, taps and views, unless it is stored, and return its place.

    Where F runs live, the bank has only the statistics. With several ``parts``, each worker computes one:
    first the statistics of all parts, then the rows. The bank of a killed search goes on after the last rows.
    """
    settings = resolve(config)
    digests = [_big_model_digest(place) for place in big_models]
    key = bank_key(data.digest, digests, settings.bank, settings.data, settings.seed)
    place = storage.below(cache, f"bank-{key}")
    if remote_folders.verify_folder(place):
        return place
    job: dict[str, Any] = {
        "settings": to_json(settings),
        "data": data_folder,
        "big_models": list(big_models),
        "folder": place,
    }
    advance = _JointProgress(progress, "bank" if parts == 1 else f"bank in {parts} parts")
    if parts == 1:
        run_concurrently(queue, [{**job, "kind": "bank", "threads": threads}], advance)
        return place
    # Another search may compute the same bank at the same time; this one finds its parts again after a kill.
    own = hashlib.sha256(f"{config.folder.absolute()}:{parts}".encode()).hexdigest()[:8]
    job |= {"cache": cache, "key": f"{key}-{own}", "parts": parts}
    firsts = range(0, parts, settings.resources.workers_per_trial)
    for kind in ("survey", "bank_part"):
        run_concurrently(queue, [{**job, "kind": kind, "first": first} for first in firsts], advance)
    run_concurrently(queue, [{**job, "kind": "assemble"}], advance)
    for file in part_files(job):
        with contextlib.suppress(OSError):
            storage.delete(file)
    return place


class _JointProgress:
    """Sums the progress of concurrent jobs, over both passes where there are two."""

    def __init__(self, progress: Progress, stage: str) -> None:
        self._progress, self._stage, self._lock = progress, stage, threading.Lock()
        progress.stage(stage, None)
        self._seen: dict[tuple[str, int], tuple[int, int]] = {}
        self._total = 0

    def __call__(self, job: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        if result["kind"] != "progress":
            return
        with self._lock:
            self._seen[job["kind"], job.get("first", 0)] = result["done"], result["total"]
            done, total = map(sum, zip(*self._seen.values(), strict=True))
            if total != self._total:
                self._progress.stage(self._stage, total)
                self._total = total
            self._progress.advance(done)


def run_concurrently(
    queue: ActorHandle,
    jobs: Sequence[Mapping[str, Any]],
    received: Callable[[Mapping[str, Any], Mapping[str, Any]], None],
    *,
    finish_all: bool = False,
) -> None:
    """Run jobs, each on a free group.

    ``received`` is called with each job and result. With ``finish_all`` the others go on
    after one has failed.

    Raises:
        UserError: of the first job that failed.
    """

    def run(job: Mapping[str, Any]) -> None:
        for result in run_stage(queue, job):
            received(job, result)

    threads = ThreadPoolExecutor(len(jobs))
    running = [threads.submit(run, job) for job in jobs]
    try:
        failed = []
        for done in as_completed(running):
            try:
                done.result()
            except UserError as error:
                failed.append(error)
                if not finish_all:
                    break
        if failed:
            raise failed[0]
    finally:
        # Without waiting: an interrupt must not wait for the jobs, which end with the pool.
        threads.shutdown(wait=False, cancel_futures=True)


def run_stage(queue: ActorHandle, job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Run one job on a free group and yield its results up to and including ``done``.

    Where the group's machine is lost, another group resumes the job after its last epoch, or restarts it.

    Raises:
        UserError: the job failed; the error has the reason.
    """
    job = dict(job)
    while True:
        for result in _on_one_group(queue, job):
            if result["kind"] in ("failed", "broken"):
                raise UserError(
                    f"stage {job['kind']}", result["reason"], "a stage that ends", result["trace"]
                )
            if result["kind"] == "epoch":
                job["after_epoch"] = result["epoch"]
            if result["kind"] != "alive":
                yield result
            if result["kind"] == "done":
                return


def _on_one_group(queue: ActorHandle, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the job's results until it ends or its group is lost."""
    try:
        client = LeaseClient(queue, holder=str(job["kind"]), timeout=600.0)
    except LeaseLostError:
        return  # all groups are busy or starting: the caller tries again
    try:
        client.post(job)
        while True:
            result = client.pull(5.0)
            if result is not None and result["kind"] == "interrupted":
                return
            if result is not None:
                yield result
    except LeaseLostError:
        return
    finally:
        client.release()


def big_model_key(settings: Settings, index: int, data: DataBundle) -> str:
    """Return a hash of the inputs of one F: data, its settings, the seed, the file it is loaded from."""
    model = settings.big_models[index]
    parts: dict[str, Any] = {
        "data": data.digest,
        "settings": {key: value for key, value in asdict(model).items() if key != "precision"},
        "seed": settings.seed,
        "augment": settings.data.augment,
    }
    # Only values that differ from the defaults, so that stored models of earlier searches are still found.
    for name, value, default in (
        ("precision", settings.big_model_precision(model), "fp32"),
        ("sampling", settings.data.sampling, "uniform"),
        ("randaugment", settings.data.randaugment, 0),
        ("erasing", settings.data.erasing, 0.0),
        ("class_weights", settings.training.class_weights, "none"),
        ("metric", settings.metric, "accuracy"),  # of the stored figures
        ("twins", settings.big_models[:index].count(model), 0),  # each is trained with a seed of its own
    ):
        if value != default:
            parts[name] = value
    if ":" in model.name:
        parts["code"] = _source_digest(model.name)
    if model.weights and (file := weights_file(model.weights)):
        parts["file"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _source_digest(name: str) -> str:
    """Return a hash of the file of the module in ``package.module:function``; '' if it has none."""
    found = importlib.util.find_spec(name.partition(":")[0])
    file = Path(found.origin) if found is not None and found.origin else None
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else ""


def _big_model_digest(place: str) -> str:
    """Return a stored F's key and the hash of its weights; the same weights may belong to other strides."""
    weights = (remote_folders.fetch_folder(place) / "model.safetensors").read_bytes()
    return f"{storage.last_name(place)}-{hashlib.sha256(weights).hexdigest()}"


def _warn_at_chance(figures: list[BigModelRecord], data: DataBundle, progress: Progress) -> None:
    for record in figures:
        if record.val_accuracy < 2.0 / data.num_classes:
            progress.note(
                f"warning: {record.name} is near chance on validation ({record.val_accuracy:.1%}, chance "
                f"{1 / data.num_classes:.1%}): check its preprocessing and the order of its "
                "classes, or train it longer (big_model.epochs)"
            )
