"""Call commands in this process, with the results that a shell sees."""

import contextlib
import io
from dataclasses import dataclass

from tkd_search.__main__ import main


@dataclass
class Called:
    code: int
    out: str
    err: str


def call(*arguments):
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code
    return Called(code, out.getvalue(), err.getvalue())
