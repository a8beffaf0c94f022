"""Progress of a search that ends when another driver has started the same run."""

from collections.abc import Callable

from tkd_search.engine.progress import Progress
from tkd_search.engine.search_state import SearchState


class OwnedProgress:
    """Pass progress on, unless the run belongs to another driver.

    Args:
        progress: every call is passed on to it.
        check_owner: called before every call but :meth:`note`; the error it raises ends the search.
    """

    def __init__(self, progress: Progress, check_owner: Callable[[], None]) -> None:
        self._progress, self._check_owner = progress, check_owner

    def note(self, text: str) -> None:
        """Pass a note on."""
        self._progress.note(text)

    def stage(self, name: str, total: int | None) -> None:
        """Check the owner, then announce a stage."""
        self._check_owner()
        self._progress.stage(name, total)

    def advance(self, done: int, text: str = "") -> None:
        """Check the owner, then count steps of a stage."""
        self._check_owner()
        self._progress.advance(done, text)

    def search_state(self, search_state: SearchState) -> None:
        """Check the owner, then show the state of the search."""
        self._check_owner()
        self._progress.search_state(search_state)
