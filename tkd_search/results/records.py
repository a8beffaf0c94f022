"""What a search leaves behind, as frozen values: written by the search, read by tracking and reports."""

from dataclasses import dataclass, field
from typing import Any, Literal

TrialState = Literal["running", "complete", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One epoch of one trial.

    ``epoch`` counts from 1; ``val_accuracy`` is in [0, 1]; ``metrics`` holds further figures by name
    (losses, seconds, selected taps' weights as ``weight.<candidate>``).
    """

    epoch: int
    val_accuracy: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One student trained with one configuration.

    ``config`` is flat: dotted key → value, searched leaves only. ``bytes`` is the length of the
    safetensors serialisation of the student. ``reason`` says why a trial was stopped or failed.
    """

    trial_id: str
    student: str
    config: dict[str, Any]
    bytes: int
    parameters: int
    state: TrialState
    epochs: tuple[EpochRecord, ...] = ()
    reason: str = ""
    seconds: float = 0.0

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy at the last epoch, NaN before the first."""
        return self.epochs[-1].val_accuracy if self.epochs else float("nan")

    @property
    def epochs_trained(self) -> int:
        """Epochs behind its last record; not every epoch has one (``training.validate_every``)."""
        return self.epochs[-1].epoch if self.epochs else 0

    @property
    def not_trained(self) -> bool:
        """Whether it was stopped before its first epoch: the student breaks a limit of the search."""
        return self.state == "stopped" and not self.epochs


@dataclass(frozen=True, kw_only=True)
class BigModelRecord:
    """The big model's figures; accuracies in [0, 1]."""

    name: str
    bytes: int
    parameters: int
    val_accuracy: float
    test_accuracy: float


@dataclass(frozen=True, kw_only=True)
class SearchStart:
    """What is known of a search before its first trial: enough to open its page in a tracking store.

    ``config`` is the resolved experiment, flat (dotted key → value or text of its distribution);
    ``config_yaml`` the same as the user may run it again, ``command`` the line that does so.
    ``dataset_digest`` identifies the images and labels. ``full_budget`` is one student's epochs.
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


@dataclass(frozen=True, kw_only=True)
class FrontMember:
    """A trial on the front, with its test figures (measured once, after the search).

    ``ratio`` = bytes ÷ F's bytes, ``retention`` = test accuracy ÷ F's. ``path`` is the folder of its
    files, relative to the run's folder. ``latency_ms`` maps batch size → median milliseconds.
    """

    trial_id: str
    student: str
    bytes: int
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
    """A whole search: all that a report needs.

    ``hypervolume`` is in [0, 1]; ``history`` holds (epochs spent, hypervolume) after each trial ended;
    ``reference_point`` is (bytes of F, chance accuracy). ``method`` is the one that taught every trial, ''
    where methods are searched and each trial's configuration has its own. ``wall_seconds`` are those of all
    the search's drivers, from data to tested front.
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

    @property
    def found_nothing(self) -> bool:
        """Whether it ended without a single student: all trials failed, or broke a limit."""
        return self.status == "complete" and not self.front

    def method_of(self, member: FrontMember) -> str:
        """How a member of the front was taught; '' where that is not known."""
        return str(member.config.get("method.name", self.method))
