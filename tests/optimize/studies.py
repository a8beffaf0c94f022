"""A small space, a study over it and the trials of a driver."""

import optuna

from tkd_search.optimize.history import rungs_of
from tkd_search.optimize.pruners.base import Continue, RungRecord, Stop
from tkd_search.optimize.pruners.create_pruner import create_pruner
from tkd_search.optimize.space import Choice, Condition, FloatDistribution, Space
from tkd_search.optimize.study import SearchStudy
from tkd_search.optimize.study_storage import open_storage

SPACE = Space(
    {
        "student.width": FloatDistribution(0.1, 1.0, log=True),
        "training.lr": FloatDistribution(1e-3, 1e-1, log=True),
        "method.name": Choice(("tkd", "ce")),
        "method.lam": FloatDistribution(0, 1),
    },
    (Condition("method.lam", "method.name", ("tkd",)),),
)
BUDGET = 9
PRUNER = create_pruner("single_objective", full_budget=BUDGET, classes=10, options={"eta": 2.0})
"""Has levels 1 and 3, and decisions that are easy to predict."""


def open_study(where=None, name="s", **options):
    options = {"space": SPACE, "pruner": PRUNER, "full_budget": BUDGET, "seed": 3, **options}
    return SearchStudy.open(name, where, **options)


def size_of(config):
    return int(1e6 * config["student.width"] ** 2)


def quality(config):
    penalty = abs(config["training.lr"] - 0.01) * 5
    return 0.5 + 0.3 * config["student.width"] - penalty + 0.1 * config.get("method.lam", 0)


def record(suggestion, epoch, accuracy=None):
    value = quality(suggestion.config) * epoch / BUDGET if accuracy is None else accuracy
    return RungRecord(
        trial_id=suggestion.trial_id, epoch=epoch, cost=size_of(suggestion.config), accuracy=value
    )


def run_trial(study, suggestion=None, until=BUDGET):
    """Run one trial as a driver does; return the decision that ended it, Continue at the full budget."""
    suggestion = suggestion or study.ask()
    for epoch in range(1, until + 1):
        decision = study.report(suggestion.trial_id, record(suggestion, epoch))
        if isinstance(decision, Stop):
            study.prune(suggestion.trial_id, None, decision.reason)
            return decision
    if until == BUDGET:
        study.complete(suggestion.trial_id)
    return Continue()


def records_at(study, level):
    """Return the study's records at a rung, in order of arrival."""
    return rungs_of(study.trials()).get(level, [])


def optuna_trials(path, name="s"):
    return optuna.load_study(study_name=name, storage=open_storage(path)).get_trials()
