"""The page ``docs/commands.md`` from click: ``python -m tests.commands_page > docs/commands.md``."""

from collections.abc import Iterator

import click

from tkd_search.__main__ import cli as group
from tkd_search.cluster.aws import main as prepare_aws
from tkd_search.run import cli as run

ENTRY_POINTS: dict[str, click.Command] = {
    "tkd_search.run": run,
    "tkd_search": group,
    "tkd_search.cluster.aws": prepare_aws,
}
HEADER = """# Commands

Generated from the commands (`python -m tests.commands_page > docs/commands.md`); `--help` prints the same.

Exit codes: 0 success, 1 nothing found or a failed check, 2 wrong input (with one message), 130 interrupted.
"""
WIDTH = 100


def commands_page() -> str:
    """Return the page: one section with the help text of each command."""
    sections = [
        f"## {path}\n\n```text\n{text}\n```\n"
        for module, command in ENTRY_POINTS.items()
        for path, text in help_texts(command, f"python -m {module}")
    ]
    return "\n".join([HEADER, *sections])


def help_texts(
    command: click.Command, path: str, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (command line, help text) of a command and of the commands below it."""
    name = path if parent is None else path.rpartition(" ")[2]
    width = {"max_content_width": WIDTH, "terminal_width": WIDTH}
    with command.make_context(name, [], parent, resilient_parsing=True, **width) as context:
        yield path, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                found = command.get_command(context, child)
                assert found is not None
                yield from help_texts(found, f"{path} {child}", context)


if __name__ == "__main__":
    print(commands_page(), end="")
