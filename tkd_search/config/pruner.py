"""The pruner of an experiment."""

from tkd_search.config.experiment_file import Config
from tkd_search.errors import UserError
from tkd_search.optimize.pruners.base import Pruner
from tkd_search.optimize.pruners.create_pruner import PRUNERS, create_pruner


def configured_pruner(config: Config, classes: int) -> Pruner:
    """Return the configured pruner.

    Raises:
        UserError: no such pruner, or options that it does not have.
    """
    search, epochs = config.settings().search, config.settings().training.epochs
    try:
        return create_pruner(search.pruner, full_budget=epochs, classes=classes, options=search.pruner_args)
    except ValueError as error:
        raise UserError(
            "search.pruner",
            f"{search.pruner!r} with search.pruner_args {search.pruner_args} ({error})",
            f"{', '.join(PRUNERS)} or package.module:Class, with its own arguments",
            "another pruner has other arguments: --set search.pruner_args={} takes its defaults",
        ) from error
