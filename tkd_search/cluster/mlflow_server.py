"""The cluster's MLflow server: on the head's loopback, behind a login with a random password."""

import configparser
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

PORT = 5000
_USER = "admin"


def state_folder() -> Path:
    """Where a host keeps what belongs to no one run: ``TKD_STATE``, else ``~/.tkd``."""
    return Path(os.environ.get("TKD_STATE") or Path.home() / ".tkd")


def secret(path: Path) -> str:
    """The secret kept in a file that only its owner reads; made at the first call."""
    if not path.exists() or not path.read_text().strip():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
    return path.read_text().strip()


def server_command(database: str, artifacts: str) -> list[str]:
    """The command line of the server.

    Args:
        database: SQLAlchemy URI of MLflow's store.
        artifacts: folder or ``s3://``, ``gs://`` URI below which artifacts go; the server hands them on, so
            that clients need no rights of their own there.
    """
    # MLflow's command line alone knows the option --app-name; it runs from the same environment as we do.
    return [
        sys.executable, "-m", "mlflow", "server",
        "--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(PORT), "--workers", "2",
        "--backend-store-uri", database, "--artifacts-destination", artifacts,
    ]  # fmt: skip


def server_environment(folder: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of the server; writes the login's configuration and makes its secrets where missing.

    Args:
        folder: the host's state folder.
        base: environment to start from.
    """
    ini = folder / "mlflow_auth.ini"
    parser = configparser.RawConfigParser()
    parser["mlflow"] = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": f"sqlite:///{folder / 'mlflow_auth.db'}",
        "admin_username": _USER,
        "admin_password": secret(folder / "mlflow_password"),
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    descriptor = os.open(ini, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        parser.write(file)
    return {
        **base,
        "MLFLOW_AUTH_CONFIG_PATH": str(ini),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret(folder / "mlflow_cookie_key"),
    }


def server_settings(environment: Mapping[str, str], folder: Path) -> tuple[str, str]:
    """Database and artifacts' place: ``TKD_DATABASE`` and ``TKD_STORAGE``, else files in the folder."""
    database = environment.get("TKD_DATABASE") or f"sqlite:///{folder / 'mlflow.db'}"
    storage = environment.get("TKD_STORAGE", "").rstrip("/")
    return database, f"{storage}/mlflow" if storage else str(folder / "artifacts")
