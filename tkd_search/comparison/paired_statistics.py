"""Statistics of trainings: means, standard deviations, and paired differences with intervals."""

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
    """One training of one contestant on one fresh seed that failed; ``failed`` is the reason."""

    label: str
    seed: int
    failed: str
    parameters: int
    bytes: int

    def __str__(self) -> str:
        """Return one line for the terminal."""
        return f"{self.label}, seed {self.seed}: {self.failed}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of test accuracies: its mean, and half its 95 % interval (Student's t)."""

    mean: float
    half_width: float
    pairs: int

    @property
    def low(self) -> float:
        """Return the lower end of the interval."""
        return self.mean - self.half_width


@dataclass(frozen=True, kw_only=True)
class Row:
    """A contestant over its seeds; accuracies in [0, 1], ``sd`` the sample standard deviation.

    ``seeds`` is the number of trainings behind the figures (NaN where it is 0), ``failed`` the others.
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
    """Return the mean of ``these`` − ``those`` over common seeds, with a 95 % interval by Student's t.

    None without a common seed; the interval of a single one is infinite.
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
    """Return a row per contestant in order of appearance, compared with ``base`` seed by seed.

    Args:
        trainings: all of them; of a repeated (label, seed) the later one counts.
        base: label of the contestant that the others are compared with; its row has no difference.
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
