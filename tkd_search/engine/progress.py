"""What a search shows while it runs: a protocol, so that terminals, tests and notebooks can listen."""

from typing import Protocol

from tkd_search.engine.search_state import SearchState


class Progress(Protocol):
    """Told of stages and trials; every call returns at once."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins; ``total`` steps where they are known. The one before is over."""

    def advance(self, done: int, text: str = "") -> None:
        """The stage has done so many steps."""

    def search_state(self, search_state: SearchState, trials: int) -> None:
        """The search stands so, of ``trials`` planned."""


class Silent:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def stage(self, name: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, done: int, text: str = "") -> None:
        """Nothing."""

    def search_state(self, search_state: SearchState, trials: int) -> None:
        """Nothing."""
