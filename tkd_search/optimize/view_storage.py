"""A storage that shows a sampler what it should learn from, and nothing else.

Optuna's samplers read a study. Ours is shown a *view*: trials with comparable values (see ``fidelity``),
at most a fixed number of them, so that a suggestion never costs more than that many trials do. The view
holds the one trial being asked for beside them; what the sampler notes on it is read back.
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
    """Holds one study whose finished trials are replaced as a whole by :meth:`show`.

    Study attributes are kept: evolutionary samplers store their parents there. Not safe for threads.
    """

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self._directions = list(directions)
        self._user_attrs: dict[str, Any] = {}
        self._system_attrs: dict[str, Any] = {}
        self._shown: list[FrozenTrial] = []
        self._by_id: dict[int, FrozenTrial] = {}
        self._asked: FrozenTrial | None = None
        self._next_number = 0

    def show(self, trials: Sequence[FrozenTrial], next_number: int) -> None:
        """Set what the sampler sees, and the number of the trial it will be asked for."""
        self._shown = list(trials)
        self._by_id = {trial._trial_id: trial for trial in trials}
        self._asked = None
        self._next_number = next_number

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Begin the trial that is asked for; its id is its number."""
        self._asked = FrozenTrial(
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
        """The trial being asked for, or one of those shown; KeyError for any other."""
        if self._asked is not None and trial_id == self._asked._trial_id:
            return self._asked
        return self._by_id[trial_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """What is shown and the trial being asked for, those in the given states."""
        trials = self._shown if self._asked is None else [*self._shown, self._asked]
        return [trial for trial in trials if states is None or trial.state in states]

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Note a suggested value on the trial being asked for."""
        asked = self.get_trial(trial_id)
        asked.params = {**asked.params, param_name: distribution.to_external_repr(param_value_internal)}
        asked.distributions = {**asked.distributions, param_name: distribution}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Note what the sampler keeps for itself."""
        self.get_trial(trial_id).system_attrs[key] = value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Note an attribute."""
        self.get_trial(trial_id).user_attrs[key] = value

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Refused: trials end in the study, and are then shown."""
        raise NotImplementedError("a view only asks; trials end in the study")

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Refused, as above."""
        raise NotImplementedError("a view only asks; trials report to the study")

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """The one study there is."""
        return _STUDY_ID

    def delete_study(self, study_id: int) -> None:
        """Refused: a view is dropped as a whole."""
        raise NotImplementedError("a view holds one study for its lifetime")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Keep an attribute of the study."""
        self._user_attrs[key] = value

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Keep what a sampler notes about the study."""
        self._system_attrs[key] = value

    def get_study_id_from_name(self, study_name: str) -> int:
        """The one study there is."""
        return _STUDY_ID

    def get_study_name_from_id(self, study_id: int) -> str:
        """Name of the one study there is."""
        return _NAME

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Directions of the objectives."""
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Attributes of the study."""
        return self._user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """What samplers noted about the study."""
        return self._system_attrs

    def get_all_studies(self) -> list[FrozenStudy]:
        """The one study there is."""
        return [
            FrozenStudy(
                _NAME, None, self._user_attrs, self._system_attrs, _STUDY_ID, directions=self._directions
            )
        ]
