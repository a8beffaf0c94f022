"""Protocol through which a search reports its progress to a terminal, a notebook or a test."""

from typing import Protocol

from tkd_search.engine.search_state import SearchState


class Progress(Protocol):
    """Receives stages and trials; every call returns at once."""

    def note(self, text: str) -> None:
        """Show one line permanently."""

    def stage(self, name: str, total: int | None) -> None:
        """Begin a stage of ``total`` steps (None: unknown) and end the one before."""

    def advance(self, done: int, text: str = "") -> None:
        """Set the steps of the stage that are done."""

    def search_state(self, search_state: SearchState) -> None:
        """Show the state of the search."""


class Silent:
    """Progress that shows nothing."""

    def note(self, text: str) -> None:
        """Ignore the line."""

    def stage(self, name: str, total: int | None) -> None:
        """Ignore the stage."""

    def advance(self, done: int, text: str = "") -> None:
        """Ignore the steps."""

    def search_state(self, search_state: SearchState) -> None:
        """Ignore the state."""
