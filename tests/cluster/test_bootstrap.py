"""clusters/bootstrap.sh in a temporary home folder, and the command of the MLflow server."""

import itertools
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tkd_search.cluster.mlflow_server import (
    load_or_create_secret,
    server_command,
    server_environment,
    server_settings,
)

SCRIPT = Path(__file__).parents[2] / "clusters" / "bootstrap.sh"


def bootstrap(home: Path, role: str = "head", **settings: str) -> "subprocess.CompletedProcess[str]":
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "TKD_VENV": sys.prefix, **settings}
    return subprocess.run(
        ["bash", str(SCRIPT), role], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Home folder with a token that other users can read, as rsync may create it."""
    (tmp_path / ".ray").mkdir()
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("a-token")
    token.chmod(0o644)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_head_without_a_token_is_refused(tmp_path: Path) -> None:
    done = bootstrap(tmp_path)
    assert done.returncode == 1
    assert "get-auth-token" in done.stderr
    assert not (tmp_path / ".tkd" / "env").exists()


def test_unknown_role_is_refused(home: Path) -> None:
    assert bootstrap(home, "heda").returncode == 2


def test_environment_without_ray_is_refused(home: Path) -> None:
    done = bootstrap(home, "worker", TKD_VENV="/nonesuch")
    assert done.returncode == 1
    assert "no Ray" in done.stderr


def test_head_is_prepared_and_a_second_run_changes_nothing(home: Path) -> None:
    (home / "ray_bootstrap_config.yaml").write_text("metadata: {storage: 's3://b/tkd'}\n")
    database = f"sqlite:///{home}/m.db"
    first = bootstrap(home, TKD_DATABASE=database)
    assert first.returncode == 0, first.stderr
    environment, shell = (home / ".tkd" / "env").read_text(), (home / ".bashrc").read_text()
    assert bootstrap(home, TKD_DATABASE=database).returncode == 0
    assert (home / ".tkd" / "env").read_text() == environment
    assert (home / ".bashrc").read_text() == shell
    assert "TKD_STORAGE=s3://b/tkd" in environment
    assert database in environment
    for secret_file in (".ray/auth_token", ".tkd/env", ".tkd/mlflow_password"):
        assert mode(home / secret_file) == 0o600, secret_file


def test_settings_apply_to_rays_commands_and_to_logins(home: Path) -> None:
    (home / "tkd_search").mkdir()
    assert bootstrap(home, TKD_DATABASE="sqlite:////m.db").returncode == 0
    show = 'echo "$(command -v ray)" "${RAY_ADDRESS:-none}" "$RAY_AUTH_MODE"'
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    ray_command = subprocess.run(
        ["bash", "-c", f"source ~/.bashrc; {show}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ray_command.stdout.split() == [f"{sys.prefix}/bin/ray", "none", "token"]
    login = subprocess.run(
        ["bash", "--rcfile", str(home / ".bashrc"), "-i"], input=show, env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "auto token" in login.stdout


def test_worker_settings_contain_no_password(home: Path) -> None:
    assert bootstrap(home, "worker", TKD_STORAGE="/nfs/tkd").returncode == 0
    environment = (home / ".tkd" / "env").read_text()
    assert "PASSWORD" not in environment
    assert "TKD_STORAGE=/nfs/tkd" in environment


def test_mlflow_listens_on_loopback_and_requires_a_login(tmp_path: Path) -> None:
    environment = server_environment(tmp_path, {"X": "1"})
    again = server_environment(tmp_path, {})
    key = "MLFLOW_FLASK_SERVER_SECRET_KEY"
    assert environment[key] == again[key], "sessions stay valid after a restart"
    assert environment["X"] == "1"
    ini = Path(environment["MLFLOW_AUTH_CONFIG_PATH"])
    assert mode(ini) == 0o600
    assert load_or_create_secret(tmp_path / "mlflow_password") in ini.read_text()
    assert "default_permission = NO_PERMISSIONS" in ini.read_text()
    command = server_command(*server_settings({"TKD_STORAGE": "s3://b/tkd/"}, tmp_path))
    pairs = dict(itertools.pairwise(command))
    assert pairs["--host"] == "127.0.0.1"
    assert pairs["--app-name"] == "basic-auth"
    assert pairs["--artifacts-destination"] == "s3://b/tkd/mlflow"


@pytest.fixture
def postgres() -> Iterator[None]:
    """Debian's PostgreSQL server; clusters that were stopped before are stopped again."""
    if os.geteuid() != 0 or shutil.which("pg_lsclusters") is None:
        pytest.skip("needs root and Debian's package postgresql")
    before = subprocess.run(["pg_lsclusters", "-h"], capture_output=True, text=True, check=True).stdout
    yield
    for line in before.splitlines():
        version, name, _, status = line.split()[:4]
        if status == "down":
            subprocess.run(["pg_ctlcluster", version, name, "stop", "-m", "fast"], check=False)


@pytest.mark.cluster
@pytest.mark.usefixtures("postgres")
def test_head_creates_the_database_and_it_requires_its_password(home: Path) -> None:
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2-binary is not installed")
    for _ in range(2):
        done = bootstrap(home)
        assert done.returncode == 0, done.stderr
    lines = (home / ".tkd" / "env").read_text().replace("export ", "").split()
    settings = dict(word.split("=", 1) for word in lines if "=" in word)
    plain = settings["TKD_DATABASE"].replace("+psycopg2", "")
    with psycopg2.connect(plain) as connection, connection.cursor() as cursor:
        cursor.execute("select current_database()")
        assert cursor.fetchone() == ("mlflow",)
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(plain.replace("tkd:", "tkd:wrong"))
