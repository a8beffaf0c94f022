"""From single trainings to a table: means, spreads, and paired differences with their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training of one contestant on one fresh seed; accuracies in [0, 1]."""

    label: str
    seed: int
    val_accuracy: float
    test_accuracy: float
    seconds_per_epoch: float
    parameters: int
    bytes: int
    teachers: tuple[tuple[int, str, float, float], ...] = ()
    """(epoch, candidate, weight, agreement with the student) of every epoch, where there are teachers."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One training of one contestant on one fresh seed that gave no student; ``failed`` says why."""

    label: str
    seed: int
    failed: str
    parameters: int
    bytes: int

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.label}, seed {self.seed}: {self.failed}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of test accuracies: its mean, and half its 95 % interval (Student's t)."""

    mean: float
    half_width: float
    pairs: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width


@dataclass(frozen=True, kw_only=True)
class Row:
    """A contestant over its seeds; accuracies in [0, 1], ``sd`` the sample standard deviation.

    ``seeds`` counts the trainings that the figures are of (NaN where there are none), ``failed`` the others.
    """

    label: str
    seeds: int
    val_mean: float
    test_mean: float
    test_sd: float
    difference: Difference | None
    seconds_per_epoch: float
    parameters: int
    bytes: int
    failed: int = 0


def paired_difference(these: Mapping[int, float], those: Mapping[int, float]) -> Difference | None:
    """Mean of ``these`` − ``those`` over the seeds that both have, with a 95 % interval by Student's t.

    None without a common seed; with one alone the interval is infinite.
    """
    seeds = sorted(these.keys() & those.keys())
    if not seeds:
        return None
    differences = np.array([these[seed] - those[seed] for seed in seeds])
    half = math.inf
    if len(seeds) > 1:
        error = differences.std(ddof=1) / math.sqrt(len(seeds))
        half = float(stats.t.ppf(0.975, len(seeds) - 1) * error)
    return Difference(mean=float(differences.mean()), half_width=half, pairs=len(seeds))


def summarise(trainings: Sequence[Training | Failure], base: str) -> tuple[Row, ...]:
    """A row per contestant in order of appearance, compared with ``base`` seed by seed.

    Args:
        trainings: all of them; a (label, seed) twice counts once, the later one.
        base: label of the contestant that differences are taken to; itself has none.
    """
    by_label: dict[str, dict[int, Training | Failure]] = {}
    for training in trainings:
        by_label.setdefault(training.label, {})[training.seed] = training
    test = {
        label: {seed: one.test_accuracy for seed, one in runs.items() if isinstance(one, Training)}
        for label, runs in by_label.items()
    }
    return tuple(
        _row(
            label,
            list(runs.values()),
            None if label == base else paired_difference(test[label], test.get(base, {})),
        )
        for label, runs in by_label.items()
    )


def _row(label: str, runs: Sequence[Training | Failure], difference: Difference | None) -> Row:
    whole = [run for run in runs if isinstance(run, Training)]
    test = [run.test_accuracy for run in whole]
    return Row(
        label=label,
        seeds=len(whole),
        val_mean=_mean([run.val_accuracy for run in whole]),
        test_mean=_mean(test),
        test_sd=float(np.std(test, ddof=1)) if len(whole) > 1 else math.nan,
        difference=difference,
        seconds_per_epoch=float(np.median([run.seconds_per_epoch for run in whole])) if whole else math.nan,
        parameters=runs[0].parameters,
        bytes=runs[0].bytes,
        failed=len(runs) - len(whole),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
