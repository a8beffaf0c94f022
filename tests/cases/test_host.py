"""Users without a home, homes and temporary folders that Ray cannot use (cases 4, 5; ray#3899, verl#1120)."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.calling import call
from tkd_search.engine.host_folders import MOST_TEMPORARY, private_folder, provide_folders

START = """
from tkd_search.engine.ray_session import ray_session
with ray_session(None) as where:
    import ray
    print(where, ray.get(ray.remote(lambda: 42).remote()))
"""
WITHOUT_A_HOME = """
import getpass, os
from pathlib import Path
from tkd_search.engine.host_folders import private_folder, provide_folders
os.setgid(54321)
os.setuid(54321)
lines = provide_folders()
assert "HOME is unset" in lines[0], lines
assert Path.home() == private_folder()
assert os.stat(Path.home()).st_mode & 0o077 == 0
getpass.getuser()
assert provide_folders() == []
"""

WITH_A_HOME_OF_ROOT = """
import getpass, os
from tkd_search.engine.host_folders import private_folder, provide_folders
os.setgid(54321)
os.setuid(54321)
lines = provide_folders()
assert getpass.getuser() == "user-54321"
assert any("caches are in" in line for line in lines), lines
assert os.environ["MPLCONFIGDIR"].startswith(str(private_folder()))
assert provide_folders() == []
"""
OPEN_FILES = """
import resource
from tkd_search.engine.ray_session import quiet_environment
quiet_environment()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.fixture
def environment(monkeypatch):
    """Variables of folders, to be set by a test and restored after it."""
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def run(code, **environment):
    env = {
        key: value for key, value in os.environ.items() if key not in ("RAY_TMPDIR", "RAY_AUTH_TOKEN_PATH")
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**env, **environment}, capture_output=True, text=True)


def test_ray_starts_with_a_long_temporary_folder_and_a_home_that_cannot_be_written(tmp_path):
    long = tmp_path / ("x" * (98 - len(str(tmp_path)) - 1))
    long.mkdir()
    (tmp_path / "home").touch()
    done = run(START, TMPDIR=str(long), HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "own Ray on this machine 42" in done.stdout


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without an entry")
def test_a_user_without_an_entry_and_without_home_gets_a_private_folder():
    env = {key: value for key, value in os.environ.items() if key not in ("HOME", "LOGNAME", "USER")}
    done = subprocess.run([sys.executable, "-c", WITHOUT_A_HOME], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_folders_that_ray_can_use_are_left_alone(tmp_path, environment):
    environment.setenv("HOME", str(tmp_path))
    environment.setenv("TMPDIR", "/" + "x" * (MOST_TEMPORARY - 1))
    assert provide_folders() == []
    environment.setenv("TMPDIR", "/" + "x" * MOST_TEMPORARY)
    (line,) = provide_folders()
    assert "TMPDIR" in line
    assert os.environ["RAY_TMPDIR"] == str(private_folder())


def test_a_token_that_only_this_user_can_read_is_kept_beside_a_home_that_cannot_be_written(
    tmp_path, environment
):
    (tmp_path / "home").touch()
    environment.setenv("HOME", str(tmp_path / "home"))
    assert provide_folders()
    file = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert file.stat().st_mode & 0o777 == 0o600
    token = file.read_text(encoding="utf-8")
    assert len(token) >= 32
    del os.environ["RAY_AUTH_TOKEN_PATH"]
    provide_folders()
    assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text(encoding="utf-8") == token


def test_doctor_names_them(tmp_path, environment):
    environment.setenv("TMPDIR", str(tmp_path / ("x" * 98)))
    assert "warn   folders      a temporary folder that Ray cannot use" in call("doctor").out


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without an entry")
def test_a_user_without_an_entry_whose_home_is_the_root_folder_gets_a_name_and_caches():
    env = {
        key: value
        for key, value in os.environ.items()
        if key not in ("LOGNAME", "USER", "LNAME", "USERNAME", "MPLCONFIGDIR", "XDG_CACHE_HOME")
    }
    command = [sys.executable, "-c", WITH_A_HOME_OF_ROOT]
    done = subprocess.run(command, env={**env, "HOME": "/"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["tkd_search.run"], 2, ["open files of this machine: found 128", "at least 200", "ulimit -n 4096"]),
        (["tkd_search", "doctor"], 1, ["WRONG  open files   128", "ulimit -n 4096"]),
    ],
)
def test_a_machine_that_is_too_small_is_named_and_nothing_is_written(tmp_path, command, code, words):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)),
    )
    assert done.returncode == code, done.stderr[-2000:]
    for word in words:
        assert word in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_low_soft_limit_on_open_files_is_raised():
    done = subprocess.run(
        [sys.executable, "-c", OPEN_FILES],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024)),
    )
    assert done.stdout.strip() == "(1024, 1024)", done.stderr[-2000:]
