"""A trial of the study, and its conversion from and to Optuna's records.

One user attribute, ``progress``, holds what Optuna has no field for: the student's cost, validation accuracy
by epoch, the order of arrival at each rung, and the reason of the end. The records at the rungs are derived
from it and are stored nowhere else.
"""

import datetime
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from tkd_search.optimize.pruners.base import RungRecord
from tkd_search.optimize.space import Space
from tkd_search.results.records import TrialState

PROGRESS = "progress"
"""Name of the user attribute."""

_STATES: Mapping[OptunaState, TrialState] = MappingProxyType(
    {
        OptunaState.RUNNING: "running",
        OptunaState.WAITING: "running",
        OptunaState.COMPLETE: "complete",
        OptunaState.PRUNED: "stopped",
        OptunaState.FAIL: "failed",
    }
)
OPTUNA_STATES: Mapping[TrialState, OptunaState] = MappingProxyType(
    {ours: theirs for theirs, ours in _STATES.items() if theirs is not OptunaState.WAITING}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyTrial:
    """One trial of a study.

    Attributes:
        number: position in the study, from 0; ``trial_id`` is made from it.
        storage_id: key of the trial in the storage.
        config: flat configuration, dotted key → value, active searched leaves only.
        cost: of the student, > 0, in the unit of the study; None before the first report.
        curve: epoch → validation accuracy in [0, 1], as far as reported.
        arrivals: rung epoch → position among all rung records of the study, in order of arrival.
        reason: why it was stopped or failed.
        system: attributes of the sampler (an evolutionary sampler's generation).
    """

    number: int
    storage_id: int
    config: Mapping[str, Any]
    state: TrialState = "running"
    cost: float | None = None
    curve: Mapping[int, float] = field(default_factory=dict)
    arrivals: Mapping[int, int] = field(default_factory=dict)
    reason: str = ""
    system: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trial_id(self) -> str:
        """Name of the trial, such as ``t0007``."""
        return trial_name(self.number)

    @property
    def epochs(self) -> int:
        """Epochs trained, as far as reported."""
        return max(self.curve, default=0)

    @property
    def accuracy(self) -> float:
        """Validation accuracy at the last reported epoch, NaN before the first."""
        return self.curve[self.epochs] if self.curve else float("nan")

    def record_at(self, epoch: int) -> RungRecord | None:
        """Return the trial's record at a rung, None where it did not reach it."""
        if epoch not in self.arrivals or self.cost is None:
            return None
        return RungRecord(trial_id=self.trial_id, epoch=epoch, cost=self.cost, accuracy=self.curve[epoch])

    def progress(self) -> dict[str, Any]:
        """Return the ``progress`` attribute: plain JSON."""
        return {
            "cost": self.cost,
            "curve": {str(epoch): accuracy for epoch, accuracy in self.curve.items()},
            "arrivals": {str(epoch): position for epoch, position in self.arrivals.items()},
            "reason": self.reason,
        }


def trial_name(number: int) -> str:
    """Return ``t0007`` for 7; numbers above 9999 have more digits. Interned: every record holds the name."""
    return sys.intern(f"t{number:04d}")


def to_optuna(trial: StudyTrial, space: Space) -> FrozenTrial:
    """Return a trial as a template for Optuna's storage."""
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.storage_id,
        state=OPTUNA_STATES[trial.state],
        value=None,
        values=None,
        datetime_start=datetime.datetime.now(),
        datetime_complete=None,
        params=dict(trial.config),
        distributions={leaf: space.leaves[leaf].to_optuna() for leaf in trial.config},
        user_attrs={},
        system_attrs=dict(trial.system),
        intermediate_values={},
    )


def share_distributions(frozen: FrozenTrial, distributions: Mapping[str, BaseDistribution]) -> None:
    """Replace the distributions of a storage's record of a trial by these equal ones.

    Optuna's journal creates one per leaf and trial, which is half of a trial's memory. Where a storage
    returns copies, this has no effect.
    """
    frozen.distributions = {leaf: distributions[leaf] for leaf in frozen.distributions}


def from_optuna(frozen: FrozenTrial) -> StudyTrial:
    """Return a storage's record as a trial; it shares the record's mappings."""
    progress = frozen.user_attrs.get(PROGRESS, {})
    return StudyTrial(
        number=frozen.number,
        storage_id=frozen._trial_id,
        config=frozen.params,
        state=_STATES[frozen.state],
        cost=progress.get("cost"),
        curve={int(epoch): accuracy for epoch, accuracy in progress.get("curve", {}).items()},
        arrivals={int(epoch): position for epoch, position in progress.get("arrivals", {}).items()},
        reason=progress.get("reason", ""),
        system=frozen.system_attrs,
    )
