"""What no single setting can tell, checked before anything is written."""

import torch

from tkd_search.config import Config
from tkd_search.data import DataBundle
from tkd_search.distill.taps import find_taps
from tkd_search.errors import UserError
from tkd_search.models import build_big_model
from tkd_search.search.rules import RULES, make_rule
from tkd_search.search.rungs import RungRule


def check_candidates(config: Config, data: DataBundle) -> int:
    """Number of taps over all big models; refuses a fixed K above taps × masks.

    Raises:
        UserError: ``method.k`` is fixed and larger than the number of candidates, or no tap matches.
    """
    settings = config.settings()
    taps = 0
    example = torch.zeros(2, data.channels, data.size, data.size)
    for model_settings in settings.big_models:
        model = build_big_model(
            model_settings, classes=data.num_classes, channels=data.channels, size=data.size
        )
        taps += len(find_taps(model.model, settings.bank.taps, example))
    fixed = "method.k" not in config.space.leaves and "method.masks" not in config.space.leaves
    most = taps * settings.method.masks
    if fixed and settings.method.name == "tkd" and settings.method.k > most:
        raise UserError(
            "method.k",
            str(settings.method.k),
            f"1 to {most}: {taps} taps × {settings.method.masks} masks",
            "lower method.k, raise method.masks, or name more bank.taps",
        )
    return taps


def rung_rule(config: Config, classes: int) -> RungRule:
    """The configured rule.

    Raises:
        UserError: no such rule, or options it does not take.
    """
    search, epochs = config.settings().search, config.settings().training.epochs
    try:
        return make_rule(search.rule, full_budget=epochs, classes=classes, options=search.rule_args)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(
            "search.rule",
            f"{search.rule!r} with search.rule_args {search.rule_args} ({error})",
            f"{', '.join(RULES)} or package.module:Class, and arguments that it has",
            "another rule has other arguments: --set search.rule_args={} takes its defaults",
        ) from error
