"""Errors that are the user's to mend: one readable message, exit code 2, no traceback."""


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

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        """Survive a trip between processes (the default would replay one message as four arguments)."""
        return type(self), (self.where, self.found, self.allowed, self.hint)
