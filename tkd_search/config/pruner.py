"""The pruner that an experiment asks for."""

from tkd_search.config.experiment_file import Config
from tkd_search.errors import UserError
from tkd_search.optimize.pruners.base import Pruner
from tkd_search.optimize.pruners.create_pruner import PRUNERS, create_pruner


def configured_pruner(config: Config, classes: int) -> Pruner:
    """The configured rule.

    Raises:
        UserError: no such rule, or options it does not take.
    """
    search, epochs = config.settings().search, config.settings().training.epochs
    try:
        return create_pruner(search.pruner, full_budget=epochs, classes=classes, options=search.pruner_args)
    except ValueError as error:
        raise UserError(
            "search.pruner",
            f"{search.pruner!r} with search.pruner_args {search.pruner_args} ({error})",
            f"{', '.join(PRUNERS)} or package.module:Class, and arguments that it has",
            "another rule has other arguments: --set search.pruner_args={} takes its defaults",
        ) from error
