import subprocess
import sys

import pytest

import tkd_search
from tests.cli.calling import call
from tkd_search.__main__ import main
from tkd_search.cli import SUMMARIES, LazyGroup


def test_help_lists_the_commands_without_importing_them():
    heavy = ("torch", "mlflow", "pandas", "ray", "plotly")
    script = (
        "import sys\nfrom tkd_search.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for name in ("report", "pick", "export", "evaluate", "runs"):
        assert name in done.stdout


def test_the_version():
    assert tkd_search.__version__ in call("--version").out


@pytest.mark.parametrize("name", LazyGroup().list_commands(None))
def test_every_command_has_help(name):
    done = call(name, "--help")
    assert done.code == 0
    assert "Usage" in done.out
    assert name in SUMMARIES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "nonsense"),
        (["run", "--config", "mine.yaml"], "python -m tkd_search.run"),
        (["pick"], "RUN"),
        (["pick", "runs/nothing", "--knee"], "no search"),
        (["pick", "runs/nothing", "--max-bytes", "many"], "500kB"),
        (["evaluate", "nowhere", "--data", "."], "does not exist"),
        (["runs", "status", "nothing"], "no search"),
    ],
)
def test_wrong_arguments_give_one_message_and_exit_code_two(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = call(*arguments)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.iterdir())


def test_modules_of_the_current_folder_can_be_imported(tmp_path, monkeypatch):
    """Also by ``tkd-search``, because a student may be in the user's own module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    with pytest.raises(SystemExit):
        main(["--version"])
    assert str(tmp_path) in sys.path
