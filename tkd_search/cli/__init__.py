"""The commands beside the main job: one module each, imported when the command is used.

To add a command, write ``cli/<name>.py`` with a click command named ``command`` and add a line to
``SUMMARIES``. A line without a module is not listed.
"""

import importlib
import importlib.util

import click

SUMMARIES = {
    "report": "Draw the report of one or several searches again.",
    "pick": "Choose a student of the front by size, accuracy or latency.",
    "export": "Write ONNX, int8 and model card of a search's students.",
    "evaluate": "Score a shipped student on your own images.",
    "retrain": "Train students of the front again on fresh seeds.",
    "compare": "Compare methods at equal search budgets.",
    "runs": "List, watch, stop and clean up searches.",
    "settings": "Print every setting with its default, range and meaning.",
    "doctor": "Check that this machine or cluster can run a search.",
}


class LazyGroup(click.Group):
    """Group of commands that imports the module of a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of ``SUMMARIES``."""
        return list(SUMMARIES)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Explain how to start a search where ``run`` or ``search`` is given as a command."""
        if args[0] in ("run", "search"):
            ctx.fail("the search is `python -m tkd_search.run`; see `python -m tkd_search.run --help`")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None for an unknown name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in self.list_commands(ctx)])
