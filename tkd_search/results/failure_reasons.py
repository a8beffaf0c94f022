"""Reasons why trials ended, grouped, for the terminal and the report."""

import re
from collections.abc import Iterable

from tkd_search.results.records import TrialRecord

_MOST_KINDS, _MOST_CHARACTERS = 3, 160
_NUMBER = re.compile(r"\b(?:\d[\w.+-]*|(?:nan|inf)\b)")


def reason_lines(trials: Iterable[TrialRecord]) -> list[str]:
    """Return one line per kind of reason with its count, the most frequent first.

    Reasons that differ only in their numbers are of one kind; the line shows the kind's first trial. At most
    three kinds are shown; the last line counts the others.
    """
    kinds: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        kinds.setdefault(_NUMBER.sub("#", _first_line(trial.reason)), []).append(trial)
    by_count = sorted(kinds.values(), key=len, reverse=True)
    shown, others = by_count[:_MOST_KINDS], by_count[_MOST_KINDS:]
    lines = [f"{len(kind)} × {_first_line(kind[0].reason)} ({kind[0].trial_id})" for kind in shown]
    rest = sum(map(len, others))
    return [*lines, *([f"{rest} × other reasons"] if rest else [])]


def _first_line(reason: str) -> str:
    line = reason.strip().partition("\n")[0] or "no reason given"
    return line if len(line) <= _MOST_CHARACTERS else f"{line[: _MOST_CHARACTERS - 1]}…"
