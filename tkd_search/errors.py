"""Errors that the user can correct: one readable message, exit code 2, no traceback."""

import difflib
from collections.abc import Iterable
from typing import Any

from tkd_search.masking import masked


class UserError(Exception):
    """A configuration, a file or a command is wrong and the user can correct it; secrets are masked.

    Args:
        where: dotted key path, file or command-line option.
        found: its value or state.
        allowed: legal values or states.
        hint: what to do next (nearest key, command to type); optional.
    """

    exit_code = 2

    def __init__(self, where: str, found: str, allowed: str, hint: str = "") -> None:
        where, found, allowed, hint = map(masked, (where, found, allowed, hint))
        self.where, self.found, self.allowed, self.hint = where, found, allowed, hint
        lines = [f"{where}: found {found}", f"  allowed: {allowed}"]
        if hint:
            lines.append(f"  {hint}")
        super().__init__(printable("\n".join(lines)))

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Pickle the four arguments; the default would pickle the message as the only one."""
        return type(self), (self.where, self.found, self.allowed, self.hint)


def printable(text: str) -> str:
    """Return text for people and for UTF-8 files: bytes of file names that are not UTF-8 become �."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class where there is none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return a hint with the known word nearest to a wrong one, '' where none is near."""
    nearest = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"did you mean {prefix}{nearest[0]}?" if nearest else ""
