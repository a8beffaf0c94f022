"""Python processes on a simulated full disk: a limit on file size makes writes fail as a full disk does."""

import os
import resource
import subprocess
import sys
from pathlib import Path


def limited(limit, *arguments, cwd):
    """Run Python with files of at most ``limit`` bytes; return the completed process with its output."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
    )
