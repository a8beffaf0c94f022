"""Starts and ends the process that writes a run's event log to MLflow."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

from tkd_search.tracking.uri import working_folder


def start_writer(uri: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start the process that writes the event log beside ``folder`` to the store at ``uri``.

    It ends on :func:`end_writer`, or soon after its standard input closes (the driver died). It has its own
    session, so that Ctrl-C does not reach it; its output goes to ``folder/writer.log``. The URI is in an
    environment variable: a command line with a password in it would be public.

    Args:
        uri: tracking URI with its login.
        folder: the writer's state, ``<run>/mlflow``.
    """
    folder_of_store = working_folder(uri)
    with contextlib.suppress(OSError):
        folder_of_store.mkdir(parents=True, exist_ok=True)
    package = str(Path(__file__).parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    with (folder / "writer.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tkd_search.tracking.mlflow.writer", str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "TKD_TRACKING_URI": uri, "PYTHONPATH": os.pathsep.join(paths)},
            cwd=folder_of_store if folder_of_store.is_dir() else folder,
            start_new_session=True,
        )


def end_writer(writer: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a writer to store every event within ``seconds`` and to end."""
    pipe: IO[bytes] | None = writer.stdin
    try:
        if pipe is not None and not pipe.closed:
            pipe.write(f"{seconds}\n".encode())
            pipe.close()
    except BrokenPipeError:
        pass  # it has just died; the caller looks at its return code
