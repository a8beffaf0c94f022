"""Errors that are the user's to mend: one readable message, exit code 2, no traceback."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Something in a configuration, a file or a command is wrong and the user can mend it.

    Args:
        where: dotted key path, file or command-line option that is wrong.
        found: what was found there.
        allowed: what may stand there.
        hint: what to do next (nearest key, command to type); optional.
    """

    exit_code = 2

    def __init__(self, where: str, found: str, allowed: str, hint: str = "") -> None:
        self.where, self.found, self.allowed, self.hint = where, found, allowed, hint
        lines = [f"{where}: found {found}", f"  allowed: {allowed}"]
        if hint:
            lines.append(f"  {hint}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Survive a trip between processes (the default would replay one message as four arguments)."""
        return type(self), (self.where, self.found, self.allowed, self.hint)


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The hint that names the known word nearest to a wrong one, '' where none is near."""
    nearest = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"did you mean {prefix}{nearest[0]}?" if nearest else ""
