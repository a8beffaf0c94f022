"""Tracking URIs: the default, relative files made absolute, passwords left out of what is shown."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

DEFAULT_URI = "sqlite:///mlflow.db"


@dataclass(frozen=True, kw_only=True)
class StoreIds:
    """Where a tracking store keeps a search; empty strings as long as that is unknown."""

    tracking_uri: str = ""
    experiment_id: str = ""
    parent_run_id: str = ""


def absolute_uri(uri: str = "") -> str:
    """The URI with its file, if it is one, made absolute; '' becomes the environment's or the default."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "") or DEFAULT_URI
    file = sqlite_file(uri)
    return uri if file is None else f"sqlite:///{file.absolute()}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite store, None for any other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def public_uri(uri: str) -> str:
    """The URI without user name and password: what summaries and messages may show."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rsplit("@", 1)[1]))


def known_uri(public: str) -> str:
    """The URI to reach a store by, from the one without login that a summary holds.

    MLFLOW_TRACKING_URI is taken where it names the same store; http servers get user name and password
    from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD anyway.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    return given if given and public_uri(given) == public else public


def login_to_environment(uri: str) -> str:
    """Move the user name and password of an http address to where MLflow looks for them.

    In the address itself they would be part of every error message and log line.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
        return public_uri(uri)
    return uri


def working_folder(uri: str) -> Path:
    """Where MLflow is to run: beside a sqlite file, so that its ``mlruns`` lie there as well."""
    file = sqlite_file(uri)
    return Path.cwd() if file is None else file.parent


def run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """The page of a run in MLflow's user interface; '' where the store has none of its own."""
    if not uri.startswith(("http://", "https://")) or not run_id:
        return ""
    # Without the last part MLflow 3 opens its menus for chat applications.
    return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
