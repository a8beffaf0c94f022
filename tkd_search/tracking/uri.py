"""Tracking URIs: the default, absolute files, and logins."""

import os
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from tkd_search.errors import UserError
from tkd_search.files import not_writable
from tkd_search.masking import masked

DEFAULT_URI = "sqlite:///mlflow.db"
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""Environment variables with the login of MLflow's server."""
_ELSEWHERE = "sqlite:////absolute/path/mlflow.db"
_SCHEMES = {"sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks", "databricks-uc", "uc"}


@dataclass(frozen=True, kw_only=True)
class StoreIds:
    """Where a tracking store keeps a search; empty strings while that is unknown."""

    tracking_uri: str = ""
    experiment_id: str = ""
    parent_run_id: str = ""


def is_off(uri: str) -> bool:
    """Return whether ``tracking.uri`` switches tracking off."""
    return uri.lower() in ("none", "off")


def absolute_uri(uri: str = "") -> str:
    """Return the URI with its sqlite file made absolute; '' gives the environment's URI or the default."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "") or DEFAULT_URI
    file = sqlite_file(uri)
    return uri if file is None else f"sqlite:///{file.absolute()}"


def check_uri(uri: str = "") -> None:
    """Refuse a store that MLflow would refuse, or whose folder cannot be written.

    Raises:
        UserError: the scheme is not one of MLflow's or of its plugins', or the folder of a sqlite file cannot
            be written.
    """
    where = "tracking.uri" if uri else "MLFLOW_TRACKING_URI"
    if is_off(uri):
        return
    uri = absolute_uri(uri)
    file, scheme = sqlite_file(uri), uri.partition(":")[0].partition("+")[0]
    plugins = {plugin.name for plugin in entry_points(group="mlflow.tracking_store")}
    if file is None and (scheme == "sqlite" or scheme not in _SCHEMES | plugins):
        raise UserError(
            where,
            repr(uri),
            "sqlite:///FILE, http(s)://…, postgresql://…, mysql://…, mssql://…, databricks, or none",
            "MLflow keeps no folders any more; for a file: --set tracking.uri=sqlite:///mlflow.db",
        )
    if file is not None and (problem := not_writable(file)):
        raise UserError(where, problem, "a folder that can be written", f"--set tracking.uri={_ELSEWHERE}")


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a sqlite store, None for any other store."""
    return Path(uri.removeprefix("sqlite:///")).expanduser() if uri.startswith("sqlite:///") else None


def known_uri(public: str) -> str:
    """Return the URI with login of a store whose URI without login stands in a summary.

    This is MLFLOW_TRACKING_URI where it names the same store. For http servers MLflow reads user name and
    password from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    return given if given and masked(given) == public else public


def login_to_environment(uri: str) -> str:
    """Move user name and password of an http URI into MLflow's environment variables; return the rest.

    In the URI they would be part of every error message and log line.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.username:
        os.environ.update(zip(LOGIN, (unquote(parts.username), unquote(parts.password or "")), strict=True))
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return uri


def working_folder(uri: str) -> Path:
    """Return MLflow's working folder: that of a sqlite file, so that ``mlruns`` is beside it."""
    file = sqlite_file(uri)
    return Path.cwd() if file is None else file.parent


def run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """Return the page of a run in MLflow's user interface, '' where the store has no pages."""
    if not uri.startswith(("http://", "https://")) or not run_id:
        return ""
    # Without the last part MLflow 3 opens its menus for chat applications.
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
