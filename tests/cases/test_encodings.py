"""Files are UTF-8 whatever the locale, and no character ends a command (case 7; labgrid#486, rich#212)."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tkd_search

PACKAGE = Path(tkd_search.__file__).parent
TERMINALS = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "ascii:strict"},
]
SHOW = """
import sys
sys.argv = ["run.py", "--dry-run", "--set", "search.trials=2"]
from tkd_search.run import main
main()
"""


@pytest.mark.parametrize("terminal", TERMINALS, ids=lambda one: ",".join(one))
def test_a_terminal_that_lacks_characters_shows_the_rest(tmp_path, terminal):
    command = [sys.executable, "-m", "tkd_search", "settings"]
    done = subprocess.run(command, env={**os.environ, **terminal}, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"training.epochs" in done.stdout


def test_a_plan_is_shown_on_a_terminal_that_lacks_characters(tmp_path):
    env = {**os.environ, **TERMINALS[0]}
    done = subprocess.run([sys.executable, "-c", SHOW], env=env, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"search space" in done.stdout


def calls_without_encoding(file):
    """Return the lines of a module that read or write text in the locale's encoding."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [one.value for one in node.args if isinstance(one, ast.Constant)]
        binary = any(isinstance(mode, str) and "b" in mode for mode in modes)
        method = isinstance(node.func, ast.Attribute)
        text = (
            (name in ("read_text", "write_text") and method)
            or (name == "open" and not method and not binary)
            or (name == "fdopen" and not binary)
        )
        found += [f"{file.name}:{node.lineno}"] if text else []
    return found


def test_every_text_file_is_read_and_written_as_utf_8():
    wrong = [line for file in PACKAGE.rglob("*.py") for line in calls_without_encoding(file)]
    assert wrong == []


def test_the_check_finds_a_call_without_encoding(tmp_path):
    (tmp_path / "x.py").write_text(
        "open(a)\nb.read_text()\nopen(a, 'rb')\nb.write_text(c, encoding='utf-8')\n"
    )
    assert calls_without_encoding(tmp_path / "x.py") == ["x.py:1", "x.py:2"]
