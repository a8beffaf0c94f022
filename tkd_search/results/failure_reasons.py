"""Why trials ended, as few lines: for the terminal and the page."""

import re
from collections.abc import Iterable

from tkd_search.results.records import TrialRecord

_REASONS, _REASON_LENGTH = 3, 160
"""So many kinds of reasons are told, and so many characters of each."""
_FIGURE = re.compile(r"\b(?:\d[\w.+-]*|(?:nan|inf)\b)")
"""A number, as it stands in an error's text."""


def reason_lines(trials: Iterable[TrialRecord]) -> list[str]:
    """Why these trials ended, a line per kind of reason with its count, the most frequent first.

    Reasons that differ in their figures alone are one kind, told by its first trial.
    """
    kinds: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        kinds.setdefault(_FIGURE.sub("#", _first_line(trial.reason)), []).append(trial)
    often = sorted(kinds.values(), key=len, reverse=True)
    lines = [f"{len(kind)} × {_first_line(kind[0].reason)} ({kind[0].trial_id})" for kind in often[:_REASONS]]
    rest = sum(map(len, often[_REASONS:]))
    return [*lines, *([f"{rest} × other reasons"] if rest else [])]


def _first_line(reason: str) -> str:
    line = reason.strip().partition("\n")[0] or "no reason given"
    return line if len(line) <= _REASON_LENGTH else f"{line[: _REASON_LENGTH - 1]}…"
