"""Keys and values of earlier versions, refused with their new names."""

from collections.abc import Mapping
from typing import Any

from tkd_search.errors import UserError

_KEYS = {"rule": "pruner", "rule_args": "pruner_args"}
_VALUES = {("sampler", "frugal"): "ehvi", ("pruner", "promise"): "front_probability"}


def refuse_renamed(search: Any) -> None:
    """Check the section ``search`` of an experiment file for names that have changed.

    Raises:
        UserError: an old key or value; the error names the new one.
    """
    if not isinstance(search, Mapping):
        return
    for old, new in _KEYS.items():
        if old in search:
            raise UserError(f"search.{old}", "a key that was renamed", f"search.{new}", "write the new name")
    for (key, old), new in _VALUES.items():
        if search.get(key) == old:
            raise UserError(f"search.{key}", f"{old!r}, which was renamed", repr(new), "write the new name")
