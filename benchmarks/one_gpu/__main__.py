"""Whole data sets on one GPU, without Ray: F, then students of several sizes by several methods.

    python -m benchmarks.one_gpu --data FOLDER --out OUT [--set cifar10] [--big resnet18] [--seconds 450]

Everything that is trained is a job of a process; ``--processes`` of them share the GPU. The same command goes
on where it was stopped, by ``--seconds`` or a kill: weights of F, checkpoints and finished trainings
(``OUT/trainings.jsonl``) are kept. The test images are read once per training. F runs live, on freely drawn
crops and flips, for a bank of many views would be larger than what it saves here.

Every contestant first trains each of its candidates once (seed 0, ``--candidates`` of them, the first width);
the one with the best validation accuracy is trained on fresh seeds at every width. ``--candidates 1`` takes
the first as it is. Needs neither Ray nor MLflow nor Optuna nor pydantic.
"""

import argparse
import contextlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.one_gpu.jobs import CONTESTANTS, Job, Plan, big_model_job, one_thread, student_job
from tkd_search.comparison.paired_statistics import Training, summarise
from tkd_search.data import load_data
from tkd_search.data.data_settings import DataSettings
from tkd_search.data.prepared_files import save_prepared


class Results:
    """The finished trainings, one line each; what is there is not trained again."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "trainings.jsonl"
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        made = (json.loads(line) for line in lines)
        self.by_name: dict[str, Training] = {row["label"]: Training(**row) for row in made}

    def add(self, training: Training) -> None:
        """Keep a training."""
        self.by_name[training.label] = training
        with open(self._file, "a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(training)) + "\n")


class Runner:
    """Runs jobs in processes and keeps what they return.

    Args:
        plan: what they have in common.
        processes: how many share the GPU.
    """

    def __init__(self, plan: Plan, processes: int) -> None:
        self.plan, self.results = plan, Results(plan.folder)
        self._pool = multiprocessing.get_context("spawn").Pool(processes, initializer=one_thread)

    def big_model(self) -> Callable[[], dict[str, Any] | None]:
        """Begin with F; the answer waits for its figures."""
        return self._pool.apply_async(big_model_job, (self.plan,)).get

    def students(self, jobs: Sequence[Job]) -> Callable[[], None]:
        """Begin with students that are not finished yet; the answer waits for all of them."""
        missing = [job for job in jobs if job.name(self.plan.big) not in self.results.by_name]
        coming = self._pool.imap_unordered(student_job, [(job, self.plan) for job in missing])

        def wait() -> None:
            for training in coming:
                if training is not None:
                    self.results.add(training)
                    print(_told(training), flush=True)

        return wait

    def close(self) -> None:
        """End the processes."""
        self._pool.terminate()


def _told(training: Training) -> str:
    return (
        f"{training.label:44s} validation {training.val_accuracy:.4f} test {training.test_accuracy:.4f} "
        f"{training.seconds_per_epoch:.2f} s/epoch"
    )


def chosen(label: str, width: float, count: int, big: str, results: Mapping[str, Training]) -> int:
    """Number of the candidate with the best validation accuracy; 0 where there is no choice."""
    if count == 1:
        return 0
    found = {
        number: results[name].val_accuracy
        for number in range(count)
        if (name := Job(label=label, candidate=number, width=width, seed=0).name(big)) in results
    }
    return max(found, key=lambda number: found[number], default=0)


def fresh_jobs(winners: Mapping[str, int], widths: Sequence[float], seeds: int) -> Iterator[Job]:
    """Every winner on every fresh seed at every width: whole seeds first, so that a stop leaves pairs."""
    for seed in range(1, seeds + 1):
        for width in widths:
            for label, number in winners.items():
                yield Job(label=label, candidate=number, width=width, seed=seed)


def table(
    plan: Plan, figures: Mapping[str, Any], results: Mapping[str, Training], jobs: Sequence[Job], base: str
) -> str:
    """The fresh trainings as Markdown, a table per width."""
    lines = [
        f"F: {plan.big}, {figures['bytes']:,} bytes, validation {figures['val_accuracy']:.2%}, "
        f"test {figures['test_accuracy']:.2%}, {plan.big_epochs} epochs of "
        f"{figures['seconds_per_epoch']:.2f} s. Students: {plan.epochs} epochs."
    ]
    for width in sorted({job.width for job in jobs}):
        made = [
            replace(results[name], label=job.label)
            for job in jobs
            if job.width == width and (name := job.name(plan.big)) in results
        ]
        if not made:
            continue
        one, ratio = made[0], made[0].bytes / figures["bytes"]
        lines += [
            "",
            f"MobileNetV2 ×{width:g}: {one.parameters:,} parameters, {one.bytes:,} bytes, ratio {ratio:.3f}",
            "",
            f"| contestant | seeds | validation | test, mean ± sd | − {base}, 95 % | retention | s/epoch |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in summarise(made, base):
            apart = row.difference
            told = "" if apart is None else f"{100 * apart.mean:+.2f} ± {100 * apart.half_width:.2f}"
            lines.append(
                f"| {row.label} | {row.seeds} | {100 * row.val_mean:.2f} | {100 * row.test_mean:.2f} ± "
                f"{100 * row.test_sd:.2f} | {told} | {row.test_mean / figures['test_accuracy']:.4f} | "
                f"{row.seconds_per_epoch:.2f} |"
            )
    return "\n".join(lines)


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Decode the data set once, where no earlier command did."""
    if not (folder / "bundle.json").exists():
        settings = DataSettings(name=options.set, path=options.data, validation=options.validation)
        save_prepared(load_data(settings), folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; see the head of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--set", default="cifar10", help="its name: cifar10, tinyimagenet …")
    parser.add_argument("--validation", type=float, default=0.1, help="share of the training images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--big", default="resnet18")
    parser.add_argument("--big-width", type=float, default=1.0)
    parser.add_argument("--big-epochs", type=int, default=30)
    parser.add_argument("--big-lr", type=float, default=2e-3)
    parser.add_argument("--contestants", default="ce,kd,tkd,no-teachers")
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--widths", default="0.65", help="of MobileNetV2; candidates train the first")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=3600.0)
    options = parser.parse_args(arguments)
    deadline = time.time() + options.seconds
    labels, widths = options.contestants.split(","), [float(w) for w in options.widths.split(",")]
    prepare(options, options.out / "data")
    plan = Plan(
        out=str(options.out),
        big=options.big,
        big_width=options.big_width,
        big_epochs=options.big_epochs,
        big_lr=options.big_lr,
        epochs=options.epochs,
        batch_size=options.batch,
        lr=options.lr,
        precision=options.precision,
        device=options.device,
        deadline=deadline,
    )
    with contextlib.closing(Runner(plan, options.processes)) as runner:
        page = run(runner, labels, widths, seeds=options.seeds, candidates=options.candidates)
    print(page)


def run(
    runner: Runner, labels: Sequence[str], widths: Sequence[float], *, seeds: int, candidates: int
) -> str:
    """All of one command; its tables, or what is missing."""
    plan, results = runner.plan, runner.results.by_name
    counts = {label: min(candidates, len(CONTESTANTS[label])) for label in labels}
    figures = runner.big_model()
    alone = [Job(label="ce", candidate=0, width=w, seed=s + 1) for s in range(seeds) for w in widths]
    early = runner.students(alone if counts.get("ce") == 1 else [])
    found = figures()
    if found is None:
        return "time ran out before F was trained: the same command goes on"
    print(json.dumps(found), flush=True)
    early()
    tried = [
        Job(label=label, candidate=number, width=widths[0], seed=0)
        for label, count in counts.items()
        for number in range(count)
        if count > 1
    ]
    runner.students(tried)()
    winners = {label: chosen(label, widths[0], count, plan.big, results) for label, count in counts.items()}
    jobs = list(fresh_jobs(winners, widths, seeds))
    runner.students(jobs)()
    page = table(plan, found, results, jobs, "kd" if "kd" in labels else labels[0])
    (plan.folder / f"{plan.big}.md").write_text(page + "\n")
    return page


if __name__ == "__main__":
    main()
