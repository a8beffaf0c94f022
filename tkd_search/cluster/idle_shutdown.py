"""When a rented machine that nobody uses is to switch itself off: a pure rule over observations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class IdleClock:
    """Since when a machine has been idle; ``since`` is in seconds of any one clock, None while it is busy."""

    since: float | None = None

    def observe(self, now: float, busy: bool) -> "IdleClock":
        """The clock after an observation at time ``now`` (seconds, not before the last one)."""
        if busy:
            return IdleClock(None)
        return self if self.since is not None else IdleClock(now)

    def due(self, now: float, limit_minutes: float) -> bool:
        """Whether the machine has been idle for the limit; a limit of 0 means never."""
        return limit_minutes > 0 and self.since is not None and now - self.since >= 60 * limit_minutes
