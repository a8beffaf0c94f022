"""Measures the orchestration's cost per trial, four ways in one run.

    python -m benchmarks.trial_overhead [--trials 20] [--nested 3] [--json FILE]

Each trial trains for a given time (0.2 s) and four epochs. Overhead = wall time × slots ÷ trials − training;
the start of the pool is reported separately. Four ways: *ours* (warm Ray Train worker groups behind reused
Tune trials), *nested_train* (a Tune trial that calls ``TorchTrainer(...).fit()``, the textbook nesting),
*reused_tune* (a plain reused Tune class trainable, no Ray Train), *bare_optuna* (a loop in this process).
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.toy_job import run_toy_job
from tkd_search.engine.ray_session import ray_session

EPOCHS = 4
SLOTS = 2


def overheads(ends: list[float], begin: float, seconds: float, slots: int) -> list[float]:
    """Per-trial overhead from the times at which trials ended: gaps between the ends on ``slots`` slots."""
    marks = [begin, *sorted(ends)]
    return [max(0.0, (marks[i + slots] - marks[i]) - seconds) for i in range(len(marks) - slots)]


def bare_optuna(trials: int, seconds: float) -> list[float]:
    """Run an Optuna loop in this process and return its overheads."""
    import optuna

    from tkd_search.engine.jobs.job_context import JobContext

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ends: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        point = {"seconds": seconds, "x": trial.suggest_float("x", 0, 1)}
        context = JobContext(0, 1, "cpu", lambda result: None, lambda: False)
        run_toy_job({"point": point, "epochs": EPOCHS, "after_epoch": 0}, context)
        ends.append(time.monotonic())
        return float(point["x"])

    begin = time.monotonic()
    optuna.create_study().optimize(objective, n_trials=trials)
    return overheads(ends, begin, seconds, 1)


def _tuned(trainable: Any, trials: int, seconds: float, slots: int) -> tuple[float, list[float]]:
    """Run a trainable ``trials`` times through Tune; the times at which it began and each trial ended."""
    from ray.tune import RunConfig, TuneConfig, Tuner
    from ray.tune.search import Searcher

    ends: list[float] = []

    class Counting(Searcher):
        left = trials

        def suggest(self, trial_id: str) -> Any:
            if self.left == 0:
                return Searcher.FINISHED
            self.left -= 1
            return {"trial_id": f"t{self.left:04d}", "point": {"seconds": seconds}, "after_epoch": 0}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            ends.append(time.monotonic())

        def save(self, checkpoint_path: str) -> None: ...

        def restore(self, checkpoint_path: str) -> None: ...

    begin = time.monotonic()
    Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=Counting(), num_samples=-1, max_concurrent_trials=slots, reuse_actors=True
        ),
        run_config=RunConfig(name="tune", storage_path=tempfile.mkdtemp(), verbose=0),
    ).fit()
    return begin, ends


def ours(trials: int, seconds: float) -> tuple[list[float], float]:
    """Run toy jobs on the pool; their overheads and the seconds that the pool took to start."""
    from ray import tune

    from tkd_search.config.search_settings import ResourceSettings
    from tkd_search.engine.tune.trainable import WorkerGroupTrainable
    from tkd_search.engine.workers.pool import WarmPool
    from tkd_search.engine.workers.queue_actor import QueueActor

    begin = time.monotonic()
    queue = QueueActor.remote()  # type: ignore[attr-defined]
    pool = WarmPool(
        queue, ResourceSettings(), SLOTS, tempfile.mkdtemp(), runner="benchmarks.toy_job:run_toy_job"
    )
    pool.wait(120)
    while pool.attached() < SLOTS:
        time.sleep(0.05)
    started = time.monotonic() - begin
    common = {"kind": "trial", "epochs": EPOCHS}
    trainable = tune.with_parameters(WorkerGroupTrainable, queue=queue, common=common)
    began, ends = _tuned(trainable, trials, seconds, SLOTS)
    pool.close()
    return overheads(ends, began, seconds, SLOTS), started


def reused_tune(trials: int, seconds: float) -> list[float]:
    """Run a plain reused Tune class trainable and return its overheads."""
    from ray import tune

    class Plain(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._point, self._epoch = new_config["point"], 0
            return True

        def step(self) -> dict[str, Any]:
            time.sleep(self._point["seconds"] / EPOCHS)
            self._epoch += 1
            return {"epoch": self._epoch, "done": self._epoch == EPOCHS}

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {}

        def load_checkpoint(self, checkpoint: Any) -> None: ...

    began, ends = _tuned(Plain, trials, seconds, SLOTS)
    return overheads(ends, began, seconds, SLOTS)


def nested_train(trials: int, seconds: float) -> list[float]:
    """Run Tune trials that start a Ray Train run each, one at a time: two could block each other."""
    from ray import tune

    def nested(config: dict[str, Any]) -> None:
        import ray.train
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        def loop(point: dict[str, Any]) -> None:
            for epoch in range(EPOCHS):
                time.sleep(point["seconds"] / EPOCHS)
                ray.train.report({"epoch": epoch + 1})

        TorchTrainer(
            loop,
            train_loop_config=config["point"],
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(storage_path=tempfile.mkdtemp()),
        ).fit()
        ray.tune.report({"epoch": EPOCHS})

    began, ends = _tuned(tune.with_resources(nested, {"cpu": 0.5}), trials, seconds, 1)
    return overheads(ends, began, seconds, 1)


def main() -> None:
    """Measure all four and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--nested", type=int, default=3, help="trials of the slow nested way")
    parser.add_argument("--seconds", type=float, default=0.2, help="training per trial")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    n, seconds = arguments.trials, arguments.seconds
    measured: dict[str, list[float]] = {"bare_optuna": bare_optuna(n, seconds)}
    with ray_session(None):
        measured["ours"], started = ours(n, seconds)
        measured["reused_tune"] = reused_tune(n, seconds)
    with ray_session(None):
        measured["nested_train"] = nested_train(arguments.nested, seconds)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        print(f"{name:14s} {median:8.3f} s a trial (median of {len(measured[name])})")
    print(f"nested ÷ ours  {medians['nested_train'] / max(medians['ours'], 1e-3):8.1f} ×")
    print(f"the pool of {SLOTS} groups started in {started:.1f} s, once")
    if arguments.json:
        arguments.json.write_text(json.dumps({"median_seconds_per_trial": medians}, indent=1))


if __name__ == "__main__":
    main()
