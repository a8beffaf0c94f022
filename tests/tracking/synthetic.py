"""A made-up search for tests of tracking and reports: no network was trained for these figures."""

import math
from dataclasses import replace

import numpy as np

from tkd_search.results.records import (
    BigModelRecord,
    EpochRecord,
    FrontMember,
    SearchRecord,
    SearchStart,
    TrialRecord,
)

BIG_BYTES = 2_400_000
TAPS = ("features.2", "features.5", "features.9", "features.9#1", "logits")


def synthetic_start(name="digits", dataset="digits"):
    return SearchStart(
        name=name,
        dataset=dataset,
        seed=0,
        classes=10,
        full_budget=27,
        config={
            "method.name": "choice [tkd, kd, ce]",
            "train.lr": "float [0.001, 0.02] log",
            "train.epochs": 27,
        },
        config_yaml="method:\n  name: {choice: [tkd, kd, ce]}\n",
        command=f"python -m tkd_search.run --name {name}",
        dataset_digest="sha256:0123456789abcdef",
    )


def synthetic_trial(number, rng, epochs=27):
    width = float(np.exp(rng.uniform(math.log(0.1), 0)))
    size = int(60_000 + 1_900_000 * width**1.8)
    method = ("tkd", "kd", "ce")[number] if number < 3 else str(rng.choice(["tkd", "tkd", "kd", "ce"]))
    lr = float(np.exp(rng.uniform(math.log(1e-3), math.log(2e-2))))
    skill = {"tkd": 0.012, "kd": 0.005, "ce": 0.0}[method] - 0.008 * (math.log(lr / 6e-3)) ** 2
    limit = min(0.994, 0.93 + 0.05 * (1 + math.log10(width)) + skill + rng.normal(0, 0.004))
    stopped = number >= 6 and rng.random() < 0.5
    done = int(rng.choice([3, 9])) if stopped else epochs
    favourites = rng.dirichlet(np.array([0.3, 0.6, 2.0, 1.5, 0.8]))
    records = []
    for epoch in range(1, done + 1):
        accuracy = float(np.clip(limit * (1 - 0.85 * math.exp(-epoch / 3)) + rng.normal(0, 0.003), 0, 1))
        metrics = {"loss.total": 2.3 * math.exp(-epoch / 5), "seconds": 0.3}
        if method == "tkd":
            chosen = rng.choice(len(TAPS), size=3, replace=False, p=favourites)
            metrics |= {f"weight.{TAPS[tap]}": 1 / 3 for tap in chosen}
        records.append(EpochRecord(epoch=epoch, val_accuracy=accuracy, metrics=metrics))
    return TrialRecord(
        trial_id=f"{number:04d}",
        student=f"mobilenet_v2 x{width:.2f}",
        config={
            "student.width": width,
            "method.name": method,
            "train.lr": lr,
            "method.k": int(rng.integers(1, 6)),
        },
        bytes=size,
        parameters=size // 4,
        state="stopped" if stopped else "complete",
        epochs=tuple(records),
        reason=f"rung {done}: dominated" if stopped else "",
        seconds=done * 0.3,
    )


def front_of(trials):
    complete = sorted((t for t in trials if t.state == "complete"), key=lambda t: (t.cost, -t.val_accuracy))
    best, front = -1.0, []
    for trial in complete:
        if trial.val_accuracy > best:
            best = trial.val_accuracy
            front.append(trial)
    return front


def with_latency(trial):
    """The same trial of a search by latency; the formats are not equally fast, so the order changes."""
    return replace(trial, latency=(0.03 + trial.bytes / 1e7) * (1 + int(trial.trial_id) % 3 / 2))


def synthetic_search(trials=32, seed=0, name="digits", cost="bytes", **extra):
    rng = np.random.default_rng(seed)
    done = [synthetic_trial(number, rng) for number in range(trials)]
    big = BigModelRecord(
        name="alexnet x0.25", bytes=BIG_BYTES, parameters=600_000, val_accuracy=0.9861, test_accuracy=0.9833
    )
    if cost == "latency":
        done, big = [with_latency(t) for t in done], replace(big, latency=0.61)
    front = tuple(
        FrontMember(
            trial_id=t.trial_id,
            student=t.student,
            bytes=t.bytes,
            latency=t.latency,
            parameters=t.parameters,
            ratio=t.bytes / big.bytes,
            val_accuracy=t.val_accuracy,
            test_accuracy=t.val_accuracy - 0.004,
            retention=(t.val_accuracy - 0.004) / big.test_accuracy,
            config=t.config,
            path=f"students/{t.trial_id}",
            latency_ms={1: 2.0 + t.bytes / 1e6, 32: 9.0 + t.bytes / 1e5},
        )
        for t in front_of(done)
    )
    spent = np.cumsum([len(t.epochs) for t in done])
    history = tuple((int(s), float(0.62 + 0.1 * (1 - math.exp(-s / 150)))) for s in spent)
    return SearchRecord(
        name=name,
        dataset="digits",
        seed=seed,
        classes=10,
        status="complete",
        big_model=big,
        trials=tuple(done),
        front=front,
        full_budget=27,
        hypervolume=history[-1][1],
        reference_point=(float(big.cost), 0.1),
        wall_seconds=171.2,
        history=history,
        cost=cost,
        **extra,
    )


def taught_by(record, method):
    """The same search with its method fixed: no trial has it in its configuration."""

    def without(one):
        return replace(one, config={key: v for key, v in one.config.items() if key != "method.name"})

    trials, front = (tuple(map(without, some)) for some in (record.trials, record.front))
    return replace(record, trials=trials, front=front, method=method)


def tell_all(tracker, record, folder, start=None, between=None):
    """Tell a tracker the whole search, as a driver would; ``between``: what is done after which trial."""
    tracker.search_started(start or synthetic_start(record.name))
    tracker.big_model(record.big_model)
    for number, trial in enumerate(record.trials):
        tracker.trial_started(trial)
        for epoch in trial.epochs:
            tracker.epoch(trial.trial_id, epoch)
        spent, volume = record.history[number]
        figures = {"step": number + 1, "hypervolume": volume, "front_size": 3, "epochs_spent": spent}
        tracker.trial_ended(trial, figures)
        (between or {}).get(number, lambda: None)()
    tracker.search_ended(record)
