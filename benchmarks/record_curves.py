"""Record the learning curves that the search simulator replays.

    python -m benchmarks.record_curves --configs 600 --out FOLDER --workers 2

Quasi-random points of the experiment's space, each trained to the full budget by the trainer of a
real search, one thread a process. Rows are appended as configurations finish; with ``--resume`` the same
command goes on where it was stopped.
"""

import argparse
import gzip
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.formats.training import untrained
from benchmarks.simulator.curves import space_to_json
from benchmarks.simulator.sizes import Shape, student_bytes
from tkd_search.config.experiment_file import Config, load_config, parse_config
from tkd_search.config.resolve import clip_k
from tkd_search.data import AugmentedViews, Split, load_data, plain_batches, resolved_augmentation
from tkd_search.distill import Distiller, Diverged, MethodSettings, TrainSettings, compute_bank, evaluate
from tkd_search.models import Student, build_big_model, model_bytes
from tkd_search.optimize.samplers.create_sampler import design_point
from tkd_search.optimize.space import FloatDistribution, Space
from tkd_search.seeds import child_seed

HEADER_END = ("bytes", "epoch", "val_accuracy")


@dataclass(frozen=True)
class Curve:
    """A configuration's result: point as trained, bytes, accuracy by epoch, seconds, reason of failure."""

    number: int
    point: Mapping[str, Any]
    bytes: int
    accuracy: tuple[float, ...]
    seconds: float
    failure: str = ""


def recorded_points(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Return quasi-random configurations, with numbers rounded to the six digits of the table."""
    dimensions = len(space.leaves)
    points = [space.at(design_point("qmc", i, dimensions, seed).tolist()) for i in range(count)]
    return [{leaf: _rounded(space, leaf, value) for leaf, value in point.items()} for point in points]


def _rounded(space: Space, leaf: str, value: Any) -> Any:
    distribution = space.leaves[leaf]
    if not isinstance(distribution, FloatDistribution):
        return value
    return min(max(float(f"{value:.6g}"), distribution.low), distribution.high)


class Bench:
    """Data, F and its bank, and the training of one configuration after another, on one thread.

    Args:
        tree: the experiment's resolved tree.
        weights: file of F's weights; F is trained and written there where it does not exist.
    """

    def __init__(self, tree: Mapping[str, Any], weights: Path) -> None:
        torch.set_num_threads(1)
        self.config = parse_config(tree)
        self.settings = self.config.settings()
        self.data = load_data(self.settings.data)
        self.big_model = self._big_model(weights)
        self.bank = compute_bank([self.big_model], self._views(self.settings.data.views), self.settings.bank)

    def figures(self) -> dict[str, Any]:
        """Return F's bytes and accuracies."""
        return {
            "name": self.settings.big_models[0].name,
            "bytes": model_bytes(self.big_model.model),
            "val_accuracy": self._accuracy(self.big_model, self.data.validation),
            "test_accuracy": self._accuracy(self.big_model, self.data.test),
        }

    def train(self, number: int, point: Mapping[str, Any]) -> Curve:
        """Train one configuration to the full budget; one that diverges keeps the epochs it had."""
        began = time.monotonic()
        point = clip_k(self.config, point, len(self.bank.taps))
        settings = self.config.settings(point)
        seed = child_seed(self.settings.seed, "recording", number)
        student = untrained(settings, self.big_model, self.data, seed)
        size = student_bytes(student, settings.student, self.config)
        accuracy: list[float] = []
        failure = ""
        try:
            distiller = Distiller(
                student,
                self._views(self.settings.data.views),
                settings.method,
                settings.training,
                seed=seed,
                bank=self.bank,
                class_count=self.data.num_classes,
                format=settings.student.format,
            )
            for _ in range(settings.training.epochs):
                distiller.run_epoch()
                accuracy.append(self._accuracy(distiller.eval_student(), self.data.validation))
        except Diverged as error:
            failure = str(error)
        return Curve(number, point, size, tuple(accuracy), time.monotonic() - began, failure)

    def _shape(self) -> Shape:
        return Shape(classes=self.data.num_classes, channels=self.data.channels, size=self.data.size)

    def _views(self, views: int) -> AugmentedViews:
        return AugmentedViews(
            self.data.train,
            mean=self.data.mean,
            std=self.data.std,
            views=views,
            augment=resolved_augmentation(self.settings.data),
            randaugment=self.settings.data.randaugment,
            erasing=self.settings.data.erasing,
            seed=child_seed(self.settings.seed, "views"),
        )

    def _accuracy(self, model: torch.nn.Module, split: Split) -> float:
        return evaluate(model, plain_batches(split, mean=self.data.mean, std=self.data.std))

    def _big_model(self, weights: Path) -> Student:
        settings = self.settings.big_models[0]
        torch.manual_seed(child_seed(self.settings.seed, "big_model", 0))
        model = build_big_model(settings, **self._shape())
        if weights.exists():
            model.load_state_dict(load_file(weights))
            return model.eval()
        train = TrainSettings(
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            schedule="one_cycle",
        )
        distiller = Distiller(
            model,
            self._views(0),
            MethodSettings(name="ce"),
            train,
            seed=child_seed(self.settings.seed, "big_model", 0),
            class_count=self.data.num_classes,
        )
        for _ in range(settings.epochs):
            distiller.run_epoch()
        trained = distiller.eval_student().state_dict()
        save_file({name: tensor.contiguous() for name, tensor in trained.items()}, weights)
        model.load_state_dict(load_file(weights))
        return model.eval()


class Recorder:
    """Appends curves to ``curves.csv`` and compresses it.

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
        """Return the names of the configurations in the table."""
        lines = self._file.read_text(encoding="utf-8").splitlines()[1:]
        return {line.split(",", 1)[0] for line in lines}

    def add(self, curve: Curve) -> None:
        """Append one configuration's rows in one write."""
        head = [f"c{curve.number:04d}", *(_cell(curve.point.get(leaf)) for leaf in self._leaves)]
        rows = [
            ",".join([*head, str(curve.bytes), str(epoch), f"{accuracy:.6g}"])
            for epoch, accuracy in enumerate(curve.accuracy, start=1)
        ]
        with open(self._file, "a", encoding="utf-8") as table:
            table.write("".join(row + "\n" for row in rows))

    def pack(self) -> None:
        """Compress the table and remove the uncompressed one."""
        self._packed.write_bytes(gzip.compress(self._file.read_bytes(), 9, mtime=0))
        self._file.unlink()

    def _drop_half_line(self) -> None:
        content = self._file.read_bytes()
        self._file.write_bytes(content[: content.rfind(b"\n") + 1])


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def record(config: Config, out: Path, *, count: int, workers: int, seed: int, command: str) -> None:
    """Record until ``count`` configurations are in the table."""
    recorder = Recorder(out, config.space)
    weights = out / "big_model.safetensors"
    bench = Bench(config.tree, weights)
    (out / "meta.json").write_text(json.dumps(_meta(bench, command), indent=1) + "\n")
    done = recorder.recorded()
    points = enumerate(recorded_points(config.space, count, seed))
    tasks = [(i, point) for i, point in points if f"c{i:04d}" not in done]
    began = time.monotonic()
    for i, curve in enumerate(_trained(bench, weights, tasks, workers), start=1):
        recorder.add(curve)
        left = (time.monotonic() - began) / i * (len(tasks) - i)
        final = f"{curve.accuracy[-1]:.3f}" if curve.accuracy else "-"
        print(
            f"{len(done) + i}/{count} c{curve.number:04d} {curve.bytes} bytes, accuracy {final}, "
            f"{curve.seconds:.1f} s, {left / 60:.0f} min left {curve.failure}",
            flush=True,
        )
    recorder.pack()
    weights.unlink()


def _trained(
    bench: Bench, weights: Path, tasks: list[tuple[int, dict[str, Any]]], workers: int
) -> Iterator[Curve]:
    if workers <= 1:
        yield from itertools.starmap(bench.train, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_begin, initargs=(dict(bench.config.tree), weights)) as pool:
        yield from pool.imap_unordered(_train_in_process, tasks)


_bench: Bench | None = None  # one per process: data, F and bank are the same for all its configurations


def _begin(tree: Mapping[str, Any], weights: Path) -> None:
    global _bench
    _bench = Bench(tree, weights)


def _train_in_process(task: tuple[int, dict[str, Any]]) -> Curve:
    assert _bench is not None
    return _bench.train(*task)


def _meta(bench: Bench, command: str) -> dict[str, Any]:
    figures = bench.figures()
    return {
        "schema": 1,
        "command": command,
        "space": space_to_json(bench.config.space),
        "epochs": bench.settings.training.epochs,
        "classes": bench.data.num_classes,
        "big_model_bytes": figures["bytes"],
        "big_model": figures,
        "data": {"channels": bench.data.channels, "size": bench.data.size},
        "experiment": dict(bench.config.tree),
        "torch": torch.__version__,
    }


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_curves", description=__doc__)
    parser.add_argument("--config", help="experiment file; default configs/digits.yaml")
    parser.add_argument("--set", action="append", default=[], help="key.path=value, repeatable")
    parser.add_argument("--configs", type=int, default=600, help="configurations to record")
    parser.add_argument("--out", type=Path, required=True, help="folder of the recording")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--seed", type=int, default=0, help="seed of the quasi-random points")
    parser.add_argument("--resume", action="store_true", help="continue an existing recording")
    args = parser.parse_args(arguments)
    there = any((args.out / name).exists() for name in ("curves.csv", "curves.csv.gz"))
    if there and not args.resume:
        sys.exit(f"{args.out}: a recording exists; --resume continues it")
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
