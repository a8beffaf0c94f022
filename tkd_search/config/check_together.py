"""Checks of an experiment that concern several leaves."""

from typing import TYPE_CHECKING

from tkd_search.config.conditions import is_entry
from tkd_search.config.tree import flatten
from tkd_search.errors import UserError, did_you_mean
from tkd_search.storage.object_store import storage_uri

if TYPE_CHECKING:
    from tkd_search.config.experiment_file import Config


def check_together(config: "Config") -> None:
    """Check constraints that concern several leaves.

    Raises:
        UserError: one of them is not met.
    """
    settings = config.settings()
    if config.tree["storage"] is not None:
        storage_uri(config.tree["storage"])
    workers, batch = settings.resources.workers_per_trial, min(config.possible("training.batch_size"))
    if batch // workers < 2:
        raise UserError(
            "training.batch_size",
            f"{batch} over {workers} workers",
            "at least 2 rows per worker (resources.workers_per_trial)",
        )
    _check_mixing(config)
    known = flatten(config.tree)
    for i, point in enumerate(settings.search.enqueue):
        for key in point:
            if key not in known and not is_entry(key):
                where, hint = f"search.enqueue.{i}.{key}", did_you_mean(key, known)
                raise UserError(where, "an unknown key", "dotted keys of leaves", hint)


def _check_mixing(config: "Config") -> None:
    """Refuse mixed images where a method reads F's answers to the images as they are."""
    mixing = [key for key in ("training.mixup", "training.cutmix") if max(config.possible(key)) > 0]
    live = {"ce", "tkd"} if config.tree["method"]["distil_back"] == "big_model" else {"ce"}
    readers = sorted(set(config.possible("method.name")) - live)
    if mixing and readers and config.tree["data"]["views"] > 0:
        raise UserError(
            "data.views",
            f"{config.tree['data']['views']}, beside {mixing[0]} and method.name {', '.join(readers)}",
            "0: F must answer to the mixed images, and the bank has only whole ones",
            "--set data.views=0 runs F in every step",
        )
