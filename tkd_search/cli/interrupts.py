"""Ctrl-C of the commands that run for long."""

import signal


def raise_on_interrupt() -> None:
    """Make SIGINT raise KeyboardInterrupt, also in a process that a script started in the background.

    A shell that is not interactive starts such processes with SIGINT ignored; ``runs stop`` sends it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
