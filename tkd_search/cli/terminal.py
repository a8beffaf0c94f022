"""What the commands set at their start: Ctrl-C, and an output that takes every character."""

import io
import signal
import sys


def raise_on_interrupt() -> None:
    """Make SIGINT raise KeyboardInterrupt, also in a process that a script started in the background.

    A shell that is not interactive starts such processes with SIGINT ignored; ``runs stop`` sends it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


def replace_unprintable() -> None:
    """Make the output replace characters that the terminal's encoding lacks, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
