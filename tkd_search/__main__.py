"""The other commands: ``python -m tkd_search COMMAND``, also installed as ``tkd-search``."""

import os
import sys

import click

import tkd_search
from tkd_search.cli import LazyGroup
from tkd_search.cli.terminal import replace_unprintable
from tkd_search.errors import UserError

EPILOG = """\b
Examples:
  python -m tkd_search pick runs/digits --max-bytes 500kB
  python -m tkd_search export runs/digits t0012 --format int8
  python -m tkd_search evaluate runs/digits/students/t0012 --data my/images
  python -m tkd_search report runs/a runs/b
The search itself is `python -m tkd_search.run`.
"""


@click.command(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tkd_search.__version__, prog_name="tkd_search")
def cli() -> None:
    """Work with the results of searches: report, pick, export, evaluate, housekeeping."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 success, 1 nothing found, 2 user error (one message)."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a student may be in the user's own module
    replace_unprintable()
    try:
        code = cli.main(arguments, prog_name="python -m tkd_search", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = 2
    except click.Abort:
        code = 130
    except UserError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
