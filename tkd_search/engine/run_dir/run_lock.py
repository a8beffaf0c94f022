"""One driver per run: a lock on the run's folder that the kernel drops when the process dies."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tkd_search.errors import UserError


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder/.lock`` for the length of a ``with`` block.

    Raises:
        UserError: another live process holds it (the message names it), or the folder cannot be written.
    """
    with _opened(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UserError(
                f"--name {folder.name}",
                f"another search that is running ({file.read() or 'unknown process'})",
                "a name that no live driver holds",
                "wait for it, stop it (python -m tkd_search runs stop NAME), or choose another --name",
            ) from error
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield


def _opened(folder: Path) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            "output", f"{folder} ({error.strerror})", "a folder that can be written", "--output FOLDER"
        ) from error
