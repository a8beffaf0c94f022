"""Records of a search as frozen values: written by the engine, read by tracking and reports."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from tkd_search.results.costs import Costed, CostName

TrialState = Literal["running", "complete", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch of one trial.

    ``epoch`` counts from 1; ``val_accuracy`` is in [0, 1]; ``metrics`` maps names to further figures (losses,
    seconds, selected taps' weights as ``weight.<candidate>``).
    """

    epoch: int
    val_accuracy: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrialRecord(Costed):
    """One student trained with one configuration.

    ``config`` maps dotted keys to values, searched leaves only. ``reason`` is why the trial was
    stopped or failed, '' otherwise.
    """

    trial_id: str
    student: str
    config: dict[str, Any]
    parameters: int
    state: TrialState
    epochs: tuple[EpochRecord, ...] = ()
    reason: str = ""
    seconds: float = 0.0

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy at the last recorded epoch, NaN before the first."""
        return self.epochs[-1].val_accuracy if self.epochs else float("nan")

    @property
    def epochs_trained(self) -> int:
        """Number of the last recorded epoch; not every epoch is recorded (``training.validate_every``)."""
        return self.epochs[-1].epoch if self.epochs else 0

    @property
    def not_trained(self) -> bool:
        """Whether the trial was stopped before its first epoch: the student breaks a limit of the search."""
        return self.state == "stopped" and not self.epochs


@dataclass(frozen=True, kw_only=True)
class Reference(Costed):
    """The big model in a number format, without any training: what a student must beat.

    ``ratio`` is its bytes ÷ F's; accuracies are in [0, 1].
    """

    format: str
    ratio: float
    val_accuracy: float
    test_accuracy: float


@dataclass(frozen=True, kw_only=True)
class BigModelRecord(Costed):
    """Figures of the big model; accuracies in [0, 1]. ``references`` are it in fp32, fp16 and int8."""

    name: str
    parameters: int
    val_accuracy: float
    test_accuracy: float
    references: tuple[Reference, ...] = ()

    def retention(self, test_accuracy: float) -> float:
        """Return a test accuracy ÷ the big model's, NaN where that is 0."""
        return test_accuracy / self.test_accuracy if self.test_accuracy > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class SearchStart:
    """A search before its first trial: what a tracking store needs to create its run.

    ``config`` is the resolved experiment, dotted key → value or text of the distribution; ``config_yaml`` is
    the same as YAML and ``command`` runs it again. ``dataset_digest`` is a hash of images and labels.
    ``full_budget`` is the number of epochs of a trial that is not stopped.
    """

    name: str
    dataset: str
    seed: int
    classes: int
    full_budget: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    config_yaml: str = ""
    command: str = ""
    dataset_digest: str = ""


def by_cost(members: Iterable["FrontMember"]) -> tuple["FrontMember", ...]:
    """Return members of a front, cheapest first."""
    return tuple(sorted(members, key=lambda member: (member.cost, member.trial_id)))


@dataclass(frozen=True, kw_only=True)
class FrontMember(Costed):
    """A trial on the front, with its test figures, which are measured once after the search.

    ``ratio`` = bytes ÷ F's bytes; ``retention`` = test accuracy ÷ F's. ``path`` is the folder of its files,
    relative to the run's folder. ``latency_ms`` maps batch size to median milliseconds of the shipped file.
    """

    trial_id: str
    student: str
    parameters: int
    ratio: float
    val_accuracy: float
    test_accuracy: float
    retention: float
    config: dict[str, Any]
    path: str
    latency_ms: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """A whole search, with everything that a report needs.

    ``hypervolume`` is in [0, 1]; ``history`` is (epochs spent, hypervolume) after the end of each trial;
    ``reference_point`` is (cost of F, chance accuracy); ``cost`` is what
    the search minimises. ``method`` is the distillation method of every
    trial, '' where the method is searched and is in each trial's configuration. ``metric`` is what all
    figures called accuracies are (``search.metric``). ``wall_seconds`` is the sum over all drivers of the
    search, from reading data to the tested front.
    """

    name: str
    dataset: str
    seed: int
    classes: int
    status: Literal["complete", "interrupted", "running"]
    big_model: BigModelRecord
    trials: tuple[TrialRecord, ...]
    front: tuple[FrontMember, ...]
    full_budget: int
    hypervolume: float
    reference_point: tuple[float, float]
    wall_seconds: float
    history: tuple[tuple[int, float], ...] = ()
    tracking_uri: str = ""
    experiment_id: str = ""
    parent_run_id: str = ""
    method: str = ""
    metric: str = "accuracy"
    cost: CostName = "bytes"

    @property
    def found_nothing(self) -> bool:
        """Whether the search is complete with an empty front: all trials failed or broke a limit."""
        return self.status == "complete" and not self.front

    def method_of(self, member: FrontMember) -> str:
        """Return the distillation method of a member of the front, '' where it is not known."""
        return str(member.config.get("method.name", self.method))
