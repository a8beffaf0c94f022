"""What a search shows while it runs: a protocol, so that terminals, tests and notebooks can listen."""

from typing import Protocol

from tkd_search.search.standing import Standing


class Progress(Protocol):
    """Told of stages and trials; every call returns at once."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins; ``total`` steps where they are known. The one before is over."""

    def advance(self, done: int, text: str = "") -> None:
        """The stage has done so many steps."""

    def standing(self, standing: Standing, trials: int) -> None:
        """The search stands so, of ``trials`` planned."""


class Silent:
    """Shows nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def stage(self, name: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, done: int, text: str = "") -> None:
        """Nothing."""

    def standing(self, standing: Standing, trials: int) -> None:
        """Nothing."""
