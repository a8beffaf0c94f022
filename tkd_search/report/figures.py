"""Computes what the charts show from records of searches, without a plotting library."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tkd_search.errors import UserError
from tkd_search.results.costs import COSTS, Cost
from tkd_search.results.records import SearchRecord, TrialRecord
from tkd_search.units import metric_text

WEIGHT = "weight."
_MOST_SETTINGS = 24


@dataclass(frozen=True, kw_only=True)
class TapShare:
    """How often a candidate feature of F was a teacher.

    ``share`` is the share of epochs, over all trials with teachers, in which it was selected.
    ``front_share`` is the same over the front's trials, NaN where none had teachers. ``weight`` is its mean
    weight when selected.
    """

    name: str
    share: float
    front_share: float
    weight: float


def shown_trials(record: SearchRecord) -> tuple[TrialRecord, ...]:
    """Return the trials that can be drawn: at least one epoch and a finite accuracy."""
    return tuple(trial for trial in record.trials if math.isfinite(trial.val_accuracy))


def by_end(trials: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Return trials by how they ended, in words; failed ones and those that run are not trained fully."""
    words = {"stopped": "stopped early", "complete": "trained fully"}
    groups: dict[str, list[TrialRecord]] = {"stopped early": [], "failed or running": [], "trained fully": []}
    for trial in trials:
        groups[words.get(trial.state, "failed or running")].append(trial)
    return groups


def common_cost(records: Sequence[SearchRecord]) -> Cost:
    """Return the cost that all searches minimise.

    Raises:
        UserError: they minimise different costs, which have no common axis.
    """
    names = list(dict.fromkeys(record.cost for record in records))
    if len(names) > 1:
        raise UserError(
            "the searches",
            f"search.cost {' and '.join(names)}",
            "searches with one cost: report each by itself",
        )
    return COSTS[names[0] if names else "bytes"]


def measures(records: Sequence[SearchRecord]) -> str:
    """Return what the searches measure, for people: ``accuracy``, or ``accuracy or macro F1``."""
    return " or ".join(dict.fromkeys(metric_text(record.metric) for record in records))


def accuracy_window(records: Sequence[SearchRecord]) -> tuple[float, float]:
    """Return the range of the accuracy axis in [0, 1]: the front and F with a margin.

    Trials that were stopped early may be far below and would flatten the front, so the range ends a little
    under the front's least accurate member.
    """
    values = [member.val_accuracy for record in records for member in record.front]
    values += (
        [trial.val_accuracy for record in records for trial in shown_trials(record)] if not values else []
    )
    values += [record.big_model.val_accuracy for record in records]
    values = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(values), max(values)
    span = max(high - low, 0.02)
    return max(0.0, low - 0.45 * span), min(1.0 + 0.02 * span, high + 0.18 * span)


def cost_window(records: Sequence[SearchRecord]) -> tuple[float, float]:
    """Return the range of the cost axis: all trials, F, its tenth, references, plus a fifth of a decade."""
    costs = [trial.cost for record in records for trial in record.trials]
    costs += [share * record.big_model.cost for record in records for share in (0.1, 1)]
    costs += [one.cost for record in records for one in record.big_model.references]
    costs = [cost for cost in costs if cost > 0] or [1]
    return min(costs) * 10**-0.2, max(costs) * 10**0.2


def tap_shares(record: SearchRecord) -> tuple[TapShare, ...]:
    """Return how often each candidate was a teacher, most often first; empty where no trial had teachers."""
    front = {member.trial_id for member in record.front}
    taught = [(trial.trial_id, _weights(trial)) for trial in record.trials]
    every = [weights for _, epochs in taught for weights in epochs]
    chosen_front = [weights for trial_id, epochs in taught if trial_id in front for weights in epochs]
    totals: dict[str, list[float]] = defaultdict(list)
    for weights in every:
        for name, weight in weights.items():
            totals[name].append(weight)
    shares = [
        TapShare(
            name=name,
            share=len(weights) / len(every),
            front_share=_share(name, chosen_front),
            weight=sum(weights) / len(weights),
        )
        for name, weights in totals.items()
    ]
    return tuple(sorted(shares, key=lambda tap: (-tap.share, tap.name)))


def _weights(trial: TrialRecord) -> list[dict[str, float]]:
    found = [
        {key.removeprefix(WEIGHT): value for key, value in epoch.metrics.items() if key.startswith(WEIGHT)}
        for epoch in trial.epochs
    ]
    return [{name: value for name, value in weights.items() if value > 0} for weights in found if weights]


def _share(name: str, epochs: Sequence[dict[str, float]]) -> float:
    return sum(name in weights for weights in epochs) / len(epochs) if epochs else float("nan")


def config_lines(config: dict[str, object]) -> Iterable[str]:
    """Return a configuration as lines ``key = value``, numbers with four significant digits."""
    for key, value in list(config.items())[:_MOST_SETTINGS]:
        yield f"{key} = {value:.4g}" if isinstance(value, float) else f"{key} = {value}"
    if len(config) > _MOST_SETTINGS:
        yield f"… and {len(config) - _MOST_SETTINGS} more"
