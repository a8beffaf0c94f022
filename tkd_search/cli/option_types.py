"""Command-line options that are paths or quantities with a unit."""

import os
from pathlib import Path
from typing import Any

import click

from tkd_search import units


class Option(click.ParamType):
    """A number with a unit, converted to the base unit as a float."""

    def __init__(self, kind: units.Quantity) -> None:
        self.name, self._kind = kind.name, kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; a text that is none is a usage error (exit code 2)."""
        try:
            return self._kind.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FilePath(click.ParamType):
    """A path, in which ``~`` at the start is the home folder: a shell leaves it in ``--output=~/x``."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path."""
        return Path(os.path.expanduser(value))


PATH = FilePath()
TRUST = click.option(
    "--trust",
    is_flag=True,
    help="Run the code of a student's own architecture, package.module:function.",
)
SIZE = Option(units.SIZE)
MILLISECONDS = Option(units.MILLISECONDS)
SHARE = Option(units.SHARE)
