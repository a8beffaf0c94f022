"""The commands beside the main job: one file each, loaded when it is called.

To add one, write ``commands/<name>.py`` with a click command named ``command`` and give it a line in
``SUMMARIES``; a line whose file is missing shows nowhere.
"""

import importlib
import importlib.util

import click

SUMMARIES = {
    "report": "Draw the report of one or several searches again.",
    "pick": "Choose a student of the front by size, accuracy or latency.",
    "export": "Write ONNX, int8 and model card of a search's students.",
    "evaluate": "Score a shipped student on your own images.",
    "compare": "Compare methods at equal search budgets.",
    "runs": "List, watch, stop and clean up searches.",
    "settings": "Print every setting with its default, range and meaning.",
    "doctor": "Check that this machine or cluster can run a search.",
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands whose files exist, in the order of ``SUMMARIES``."""
        return [name for name in SUMMARIES if importlib.util.find_spec(f"{__name__}.{name}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The click command, imported now; None for a name that is no command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in self.list_commands(ctx)])
