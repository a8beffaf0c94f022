"""Rule for shutting down an idle rented machine, as a pure function of observations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class IdleClock:
    """Start of a machine's idle time.

    Attributes:
        since: seconds of any one clock; None while the machine is busy.
    """

    since: float | None = None

    def observe(self, now: float, busy: bool) -> "IdleClock":
        """Return the clock after an observation at ``now`` (seconds, not before the previous observation)."""
        if busy:
            return IdleClock(None)
        return self if self.since is not None else IdleClock(now)

    def due(self, now: float, limit_minutes: float) -> bool:
        """Return whether the machine has been idle for the limit, in minutes; a limit of 0 means never."""
        return limit_minutes > 0 and self.since is not None and now - self.since >= 60 * limit_minutes
