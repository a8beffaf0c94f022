"""Record the learning curves that the search simulator replays.

    python -m benchmarks.record_curves --configs 600 --out benchmarks/curves/digits --workers 2

Quasi-random points of the experiment's space, each trained to the full budget by the very job that a
worker group of a real search runs, one thread a process. Rows are appended as configurations finish, so
the command goes on where it was stopped. About 10 s a configuration for the digits on one core.
"""

import argparse
import gzip
import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.simulator.curves import space_to_json
from tkd_search.config import Config, load_config
from tkd_search.search.samplers import design_point
from tkd_search.search.space import FloatDistribution, Space

HEADER_END = ("bytes", "epoch", "val_accuracy")


@dataclass(frozen=True)
class Shared:
    """What all configurations of a recording share: the files of its stages, and F's figures."""

    config: str
    data: str
    bank: str
    big_models: tuple[str, ...]
    candidates: int
    classes: int
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One configuration to train."""

    number: int
    point: dict[str, Any]
    shared: Shared
    folder: str


@dataclass(frozen=True)
class Curve:
    """What a configuration did: its point as trained, bytes, accuracy by epoch, seconds, why it failed."""

    number: int
    point: Mapping[str, Any]
    bytes: int
    accuracy: tuple[float, ...]
    seconds: float
    failure: str = ""


def recorded_points(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Quasi-random configurations, numbers rounded to the six digits that the table holds."""
    dimensions = len(space.leaves)
    points = [space.at(design_point("qmc", i, dimensions, seed).tolist()) for i in range(count)]
    return [{leaf: _rounded(space, leaf, value) for leaf, value in point.items()} for point in points]


def _rounded(space: Space, leaf: str, value: Any) -> Any:
    distribution = space.leaves[leaf]
    if not isinstance(distribution, FloatDistribution):
        return value
    return min(max(float(f"{value:.6g}"), distribution.low), distribution.high)


def prepare(config: Config, work: Path) -> Shared:
    """Data, F and bank, once; kept in the working folder for the next start."""
    from tkd_search.data import load_data, save_prepared
    from tkd_search.search.driver import check_candidates
    from tkd_search.search.jobs import job_config

    settings = config.settings()
    data = load_data(settings.data)
    folder = work / "data"
    if not (folder / "complete").exists():
        save_prepared(data, folder)
        (folder / "complete").touch()
    files = []
    for index in range(len(settings.big_models)):
        target = work / f"big_model-{index}"
        if not (target / "figures.json").exists():
            _run({"kind": "big_model", "index": index, "folder": str(target)}, config, folder)
        files.append(str(target / "model.safetensors"))
    bank = work / "bank"
    if not (bank / "complete").exists():
        _run({"kind": "bank", "folder": str(bank), "big_models": files}, config, folder)
        (bank / "complete").touch()
    return Shared(
        config=job_config(config),
        data=str(folder),
        bank=str(bank),
        big_models=tuple(files),
        candidates=check_candidates(config, data.num_classes, data.channels, data.size),
        classes=data.num_classes,
        figures=json.loads((work / "big_model-0" / "figures.json").read_text()),
    )


def _run(job: dict[str, Any], config: Config, data: Path) -> list[dict[str, Any]]:
    """Run one stage in this process; what it pushed."""
    from tkd_search.search.jobs import job_config

    return run_here({**job, "config": job_config(config), "data": str(data)})


def run_here(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a job of the worker groups in this process; what it pushed."""
    from tkd_search.search.job_context import JobContext
    from tkd_search.search.jobs import run_job

    results: list[dict[str, Any]] = []
    run_job(job, JobContext(0, 1, "cpu", results.append, lambda: False))
    return results


def train(task: Task) -> Curve:
    """Train one configuration to the full budget, in a process of its own."""
    import torch

    from tkd_search.config import parse_config
    from tkd_search.distill.errors import Diverged
    from tkd_search.models import build_student, model_bytes
    from tkd_search.search.referee import clip_point

    torch.set_num_threads(1)
    began = time.monotonic()
    config = parse_config(json.loads(task.shared.config))
    point, _ = clip_point(config, task.point, task.shared.candidates)
    results: list[dict[str, Any]] = []
    failure = ""
    try:
        results = run_here(_trial_job(task, point))
    except Diverged as error:
        failure = str(error)
    finally:
        shutil.rmtree(task.folder, ignore_errors=True)
    student = config.settings(point).student
    bundle = _shape(task.shared.data)
    with torch.device("meta"):
        size = model_bytes(build_student(student, **bundle).model)
    accuracy = tuple(r["val_accuracy"] for r in results if r["kind"] == "epoch")
    return Curve(task.number, point, size, accuracy, time.monotonic() - began, failure)


def _trial_job(task: Task, point: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "trial",
        "config": task.shared.config,
        "data": task.shared.data,
        "bank": task.shared.bank,
        "big_models": list(task.shared.big_models),
        "trial_id": f"c{task.number:04d}",
        "point": dict(point),
        "folder": task.folder,
        "after_epoch": 0,
    }


def _shape(data_folder: str) -> dict[str, int]:
    from tkd_search.data import load_prepared

    data = load_prepared(Path(data_folder))
    return {"classes": data.num_classes, "channels": data.channels, "size": data.size}


class Recorder:
    """Appends curves to ``curves.csv`` and packs it; knows what is recorded already.

    Args:
        folder: of the recording.
        space: its searched leaves, one column each.
    """

    def __init__(self, folder: Path, space: Space) -> None:
        self._file, self._packed = folder / "curves.csv", folder / "curves.csv.gz"
        self._leaves = space.order
        folder.mkdir(parents=True, exist_ok=True)
        if not self._file.exists() and self._packed.exists():
            self._file.write_bytes(gzip.decompress(self._packed.read_bytes()))
        if not self._file.exists():
            self._file.write_text(",".join(["config_id", *self._leaves, *HEADER_END]) + "\n")
        self._drop_half_line()

    def recorded(self) -> set[str]:
        """Names of the configurations in the table."""
        lines = self._file.read_text().splitlines()[1:]
        return {line.split(",", 1)[0] for line in lines}

    def add(self, curve: Curve) -> None:
        """Append one configuration's rows in one write."""
        head = [f"c{curve.number:04d}", *(_cell(curve.point.get(leaf)) for leaf in self._leaves)]
        rows = [
            ",".join([*head, str(curve.bytes), str(epoch), f"{accuracy:.6g}"])
            for epoch, accuracy in enumerate(curve.accuracy, start=1)
        ]
        with open(self._file, "a") as table:
            table.write("".join(row + "\n" for row in rows))

    def pack(self) -> None:
        """Compress the table; the plain one goes."""
        self._packed.write_bytes(gzip.compress(self._file.read_bytes(), 9, mtime=0))
        self._file.unlink()

    def _drop_half_line(self) -> None:
        content = self._file.read_bytes()
        self._file.write_bytes(content[: content.rfind(b"\n") + 1])


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def record(config: Config, out: Path, *, count: int, workers: int, seed: int, command: str) -> None:
    """Record until ``count`` configurations are in the table."""
    work = out / ".work"
    recorder = Recorder(out, config.space)
    shared = prepare(config, work)
    _write_meta(config, shared, out, command)
    done = recorder.recorded()
    points = recorded_points(config.space, count, seed)
    tasks = [
        Task(i, point, shared, str(work / f"trial-{i}"))
        for i, point in enumerate(points)
        if f"c{i:04d}" not in done
    ]
    began = time.monotonic()
    for i, curve in enumerate(_trained(tasks, workers), start=1):
        recorder.add(curve)
        left = (time.monotonic() - began) / i * (len(tasks) - i)
        final = f"{curve.accuracy[-1]:.3f}" if curve.accuracy else "-"
        print(
            f"{len(done) + i}/{count} c{curve.number:04d} {curve.bytes} bytes, accuracy {final}, "
            f"{curve.seconds:.1f} s, {left / 60:.0f} min left {curve.failure}",
            flush=True,
        )
    recorder.pack()
    shutil.rmtree(work)


def _trained(tasks: list[Task], workers: int) -> Iterator[Curve]:
    if workers <= 1:
        yield from map(train, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(train, tasks)


def _write_meta(config: Config, shared: Shared, out: Path, command: str) -> None:
    import torch

    meta = {
        "schema": 1,
        "command": command,
        "space": space_to_json(config.space),
        "epochs": config.settings().training.epochs,
        "classes": shared.classes,
        "big_model_bytes": shared.figures["bytes"],
        "big_model": dict(shared.figures),
        "data": _shape(shared.data),
        "experiment": dict(config.tree),
        "torch": torch.__version__,
    }
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_curves", description=__doc__)
    parser.add_argument("--config", help="experiment file; default configs/digits.yaml")
    parser.add_argument("--set", action="append", default=[], help="key.path=value, repeatable")
    parser.add_argument("--configs", type=int, default=600, help="configurations to record")
    parser.add_argument("--out", type=Path, required=True, help="folder of the recording")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--seed", type=int, default=0, help="seed of the quasi-random points")
    parser.add_argument("--resume", action="store_true", help="go on with a recording that is there")
    args = parser.parse_args(arguments)
    there = any((args.out / name).exists() for name in ("curves.csv", "curves.csv.gz"))
    if there and not args.resume:
        sys.exit(f"{args.out}: a recording is there; --resume goes on with it")
    words = " ".join(arguments if arguments is not None else sys.argv[1:])
    record(
        load_config(args.config, args.set),
        args.out,
        count=args.configs,
        workers=args.workers,
        seed=args.seed,
        command=f"python -m benchmarks.record_curves {words}".replace(" --resume", ""),
    )


if __name__ == "__main__":
    main()
