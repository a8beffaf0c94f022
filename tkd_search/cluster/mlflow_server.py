"""Command and environment of the MLflow server: on the head's loopback, with a random password."""

import configparser
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

PORT = 5000
_USER = "admin"


def state_folder() -> Path:
    """Return the host's folder for files that belong to no single run: ``TKD_STATE``, else ``~/.tkd``."""
    return Path(os.environ.get("TKD_STATE") or Path.home() / ".tkd")


def load_or_create_secret(path: Path) -> str:
    """Return the secret in a file that only its owner can read; create it if the file is missing or empty."""
    if not path.exists() or not path.read_text(encoding="utf-8").strip():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
    return path.read_text(encoding="utf-8").strip()


def server_command(database: str, artifacts: str) -> list[str]:
    """Return the command line of the server.

    Args:
        database: SQLAlchemy URI of MLflow's store.
        artifacts: folder or ``s3://``, ``gs://`` URI for artifacts; clients send and fetch them through the
            server and need no access of their own.
    """
    # MLflow's Python interface has no equivalent of --app-name.
    return [
        sys.executable, "-m", "mlflow", "server",
        "--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(PORT), "--workers", "2",
        "--backend-store-uri", database, "--artifacts-destination", artifacts,
    ]  # fmt: skip


def server_environment(folder: Path, base: Mapping[str, str]) -> dict[str, str]:
    """Return the server's environment; write the login's configuration and create missing secrets.

    Args:
        folder: the host's state folder.
        base: environment variables to extend.
    """
    ini = folder / "mlflow_auth.ini"
    parser = configparser.RawConfigParser()
    parser["mlflow"] = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": f"sqlite:///{folder / 'mlflow_auth.db'}",
        "admin_username": _USER,
        "admin_password": load_or_create_secret(folder / "mlflow_password"),
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    descriptor = os.open(ini, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        parser.write(file)
    return {
        **base,
        "MLFLOW_AUTH_CONFIG_PATH": str(ini),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": load_or_create_secret(folder / "mlflow_cookie_key"),
    }


def server_settings(environment: Mapping[str, str], folder: Path) -> tuple[str, str]:
    """Return database and artifact URIs: ``TKD_DATABASE``, ``TKD_STORAGE``, else files in the folder."""
    database = environment.get("TKD_DATABASE") or f"sqlite:///{folder / 'mlflow.db'}"
    storage = environment.get("TKD_STORAGE", "").rstrip("/")
    return database, f"{storage}/mlflow" if storage else str(folder / "artifacts")
