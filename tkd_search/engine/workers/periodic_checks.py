"""Thread that repeats checks until it is closed, also after a check has failed."""

import logging
import threading
from collections.abc import Callable, Sequence

_log = logging.getLogger(__name__)


class PeriodicChecks:
    """Thread that calls functions every few seconds.

    A check that raises is called again in the next round. An error other than ``transient`` is logged as a
    warning, once as long as it stays the same.

    Args:
        checks: called one after the other in every round.
        seconds: between two rounds.
        name: of the thread.
        transient: errors that are expected now and then.
    """

    def __init__(
        self,
        checks: Sequence[Callable[[], None]],
        *,
        seconds: float,
        name: str,
        transient: tuple[type[Exception], ...] = (),
    ) -> None:
        self._checks, self._seconds, self._transient = checks, seconds, transient
        self._closing = threading.Event()
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Start no further round and wait for the current one."""
        self._closing.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closing.wait(self._seconds):
            for check in self._checks:
                self._call(check)

    def _call(self, check: Callable[[], None]) -> None:
        try:
            check()
        except self._transient:
            return
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            if message not in self._warned:
                self._warned.add(message)
                _log.warning(
                    "a check of %s failed and is repeated every %g s: %s",
                    self._thread.name, self._seconds, message, exc_info=error,
                )  # fmt: skip
