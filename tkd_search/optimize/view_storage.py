"""An Optuna storage in memory that limits what a sampler reads.

It holds a *view* of the study: trials with comparable values (see :mod:`learning_curves`), at most a fixed
number of them, which bounds the cost of a suggestion. Beside them it holds the trial that is suggested; the
attributes that the sampler sets on it are read back.
"""

import datetime
from collections.abc import Container, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

_STUDY_ID = 0
_NAME = "view"


class ViewStorage(BaseStorage):
    """Holds one study, whose finished trials :meth:`show` replaces as a whole.

    Study attributes last for one suggestion: evolutionary samplers store their parents there, and a resumed
    search, which has lost them, must suggest the same. Not thread-safe.
    """

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self._directions = list(directions)
        self._user_attrs: dict[str, Any] = {}
        self._system_attrs: dict[str, Any] = {}
        self._shown: list[FrozenTrial] = []
        self._by_id: dict[int, FrozenTrial] = {}
        self._new: FrozenTrial | None = None
        self._next_number = 0

    def show(self, trials: Sequence[FrozenTrial], next_number: int) -> None:
        """Set the finished trials, and the number of the next one."""
        self._user_attrs, self._system_attrs = {}, {}
        self._shown = list(trials)
        self._by_id = {trial._trial_id: trial for trial in trials}
        self._new = None
        self._next_number = next_number

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create the trial to suggest; its id is its number."""
        self._new = FrozenTrial(
            number=self._next_number,
            trial_id=self._next_number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.datetime.now(),
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )
        return self._next_number

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial.

        Raises:
            KeyError: no such trial.
        """
        if self._new is not None and trial_id == self._new._trial_id:
            return self._new
        return self._by_id[trial_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in the given states."""
        trials = self._shown if self._new is None else [*self._shown, self._new]
        return [trial for trial in trials if states is None or trial.state in states]

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set a suggested value."""
        trial = self.get_trial(trial_id)
        trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
        trial.distributions = {**trial.distributions, param_name: distribution}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of the sampler on a trial."""
        self.get_trial(trial_id).system_attrs[key] = value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial."""
        self.get_trial(trial_id).user_attrs[key] = value

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Raise NotImplementedError: trials end in the study."""
        raise NotImplementedError("trials end in the study, not in its view")

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Raise NotImplementedError: trials report to the study."""
        raise NotImplementedError("trials report to the study, not to its view")

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Return the one study."""
        return _STUDY_ID

    def delete_study(self, study_id: int) -> None:
        """Raise NotImplementedError: the one study exists as long as the storage."""
        raise NotImplementedError("a view holds one study for its lifetime")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of the study."""
        self._user_attrs[key] = value

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of the sampler on the study."""
        self._system_attrs[key] = value

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the one study."""
        return _STUDY_ID

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return the name of the one study."""
        return _NAME

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the directions of the objectives."""
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the attributes of the study."""
        return self._user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the attributes that samplers set on the study."""
        return self._system_attrs

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return the one study."""
        return [
            FrozenStudy(
                _NAME, None, self._user_attrs, self._system_attrs, _STUDY_ID, directions=self._directions
            )
        ]
