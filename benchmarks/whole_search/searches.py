"""One whole search in this process, by name: its hypervolume over seconds and epochs."""

import json
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.whole_search.by_hand import ByHand, space
from benchmarks.whole_search.figures import Curve, Point
from tkd_search.config.experiment_file import Config, with_overrides
from tkd_search.models import Student, model_bytes
from tkd_search.optimize.pareto import CostScale, normalised_hypervolume

OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours-whole-trials": {"search.pruner": "never", "search.pruner_args": {}},
    "ours-without-bank": {"data.views": 0},
}
"""Changes to the experiment by name of the variant."""


class Trial(NamedTuple):
    """What a trial of a search by hand ends with; ``time`` is ``time.time()``."""

    bytes: int
    accuracy: float
    time: float


def run(name: str, config: Config, seed: int, started: float) -> Curve:
    """Run one search whole.

    Args:
        name: ``loop``, ``nested``, or one of ``OURS``.
        config: the experiment.
        seed: of the search and its trainings.
        started: ``time.time()`` when this process was started, from which seconds count.
    """
    config = with_overrides(config, {"seed": seed})
    if name in OURS:
        points = _ours(with_overrides(config, OURS[name]))
        return Curve(
            name=name, seed=seed, points=tuple(p._replace(seconds=p.seconds - started) for p in points)
        )
    by_hand = ByHand(config, seed)
    big_model = by_hand.train_big_model()
    scale, full = CostScale(model_bytes(big_model.model)), config.settings().training.epochs
    found: list[Trial] = []
    points = []
    for trial in (_loop if name == "loop" else _nested)(by_hand, big_model):
        found.append(trial)
        costs, accuracies, _ = zip(*found, strict=True)
        volume = normalised_hypervolume(costs, accuracies, scale=scale, classes=by_hand.data.num_classes)
        points.append(Point(trial.time - started, full * len(found), volume))
    return Curve(name=name, seed=seed, points=tuple(points))


def _ours(config: Config) -> list[Point]:
    """Run a search of this package and return its event log's points, with absolute times."""
    from tkd_search.api import Experiment

    with tempfile.TemporaryDirectory() as folder:
        own = {"output": folder, "tracking.uri": f"sqlite:///{folder}/mlflow.db"}
        result = Experiment(with_overrides(config, own)).search()
        log = result.folder / "events" / "events.jsonl"
        events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    ends = [
        (event["time"] / 1000, event["data"]["search"]) for event in events if event["kind"] == "trial_ended"
    ]
    return [Point(when, int(search["epochs_spent"]), search["hypervolume"]) for when, search in ends]


def _loop(by_hand: ByHand, big_model: Student) -> Iterator[Trial]:
    """Yield the trials of Optuna's TPE in this process; each training has all cores."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(multivariate=True, seed=by_hand.seed)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    for _ in range(by_hand.config.settings().search.trials):
        trial = study.ask(space(by_hand.config))
        values = by_hand.student(big_model, trial.params)
        study.tell(trial, values)
        yield Trial(*values, time.time())


def _nested(by_hand: ByHand, big_model: Student) -> Iterator[Trial]:
    """Yield the trials of Ray Tune that call ``TorchTrainer(...).fit()``, as Ray's documentation shows.

    One at a time: two would each hold a part of the cores and wait for a whole one for their worker.
    """
    from ray import tune
    from ray.tune import RunConfig, TuneConfig, Tuner
    from ray.tune.search.optuna import OptunaSearch

    from tkd_search.engine.ray_session import ray_session

    with tempfile.TemporaryDirectory() as folder, ray_session(None):
        file = Path(folder) / "big_model.pt"
        torch.save(big_model.state_dict(), file)
        search = OptunaSearch(
            space(by_hand.config), metric=["bytes", "accuracy"], mode=["min", "max"], seed=by_hand.seed
        )
        trials = by_hand.config.settings().search.trials
        results = Tuner(
            tune.with_resources(
                partial(_nested_trial, by_hand.config, by_hand.seed, file, folder), {"cpu": 0.5}
            ),
            tune_config=TuneConfig(search_alg=search, num_samples=trials, max_concurrent_trials=1),
            run_config=RunConfig(name="nested", storage_path=folder, verbose=0),
        ).fit()
        for error in results.errors:
            raise error
        found = [result.metrics for result in results if result.metrics]
    for metrics in sorted(found, key=lambda metrics: metrics["time"]):
        yield Trial(metrics["bytes"], metrics["accuracy"], metrics["time"])


def _nested_trial(config: Config, seed: int, file: Path, folder: str, chosen: dict[str, Any]) -> None:
    """Train one student in a Ray Train run of its own, inside a Tune trial."""
    import ray.train
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    def train(point: dict[str, Any]) -> None:
        by_hand = ByHand(config, seed)
        size, accuracy = by_hand.student(by_hand.load_big_model(file), point)
        ray.train.report({"bytes": size, "accuracy": accuracy, "time": time.time()})

    TorchTrainer(
        train,
        train_loop_config=chosen,
        scaling_config=ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(storage_path=folder, callbacks=[TuneReportCallback()]),
    ).fit()
