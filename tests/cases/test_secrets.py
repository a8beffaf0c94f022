"""A password in a setting reaches no file, no store and no terminal (case 2, zenml#2443)."""

import dataclasses
import io
import logging
import os
import shlex
import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.tracking.stores import drain_here
from tests.tracking.synthetic import synthetic_start, tell_all
from tkd_search import run
from tkd_search.cli.console import Console
from tkd_search.cluster.node_checks import Check
from tkd_search.config.experiment_file import differences, load_config, parse_config
from tkd_search.config.tree import flatten
from tkd_search.errors import UserError
from tkd_search.masking import MaskingFormatter, masked
from tkd_search.tracking import MlflowTracker
from tkd_search.tracking.mlflow.reader import impatient_client
from tkd_search.tracking.mlflow.store_errors import reason

SECRET = "hunter2/@s3cr3t"
URI = f"http://me:{SECRET}@host.example:5000/path"
PLAIN = "http://host.example:5000/path"


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/path@1",
        "sqlite:////home/me/mlflow.db",
        "s3://bucket/runs?endpoint_override=http://127.0.0.1:9000",
        "a Ray token: found none; search.trials=3 at me@host",
        "see http://127.0.0.1:8265 and write to me@example.org",
    ],
)
def test_a_text_without_secrets_stays_as_it_is(text):
    assert masked(text) == text


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql+psycopg://me:{SECRET}@db/mlflow",
        f"trouble at {URI}, tried twice",
        "https://hunter2@host/",
        "https://host/x?user=me&password=hunter2&x=1",
        "https://blob.example/c?sv=1&sig=hunter2%3D",
        "AWS_SECRET_ACCESS_KEY=hunter2 python",
        '{"MLFLOW_TRACKING_PASSWORD": "hunter2"}',
        "Authorization: Basic aHVudGVyMjpodW50ZXIy= s3cr3t-free",
        "Bearer hunter2hunter2",
    ],
)
def test_secrets_are_masked_wherever_they_stand(text):
    for part in ("hunter2", "s3cr3t@", "aHVudGVyMjpodW50ZXIy"):
        assert part not in masked(text)


@given(
    user=st.text(string.ascii_letters, min_size=1),
    secret=st.text(string.ascii_letters + string.punctuation, max_size=20).map(lambda text: f"Zq9{text}Zq9"),
)
def test_what_is_masked_names_the_same_place(user, secret):
    text = masked(f"http://{user}:{secret}@host.example:5000/path")
    assert text == PLAIN
    assert masked(text) == text
    assert "Zq9" not in masked(shlex.join(["--set", f"tracking.uri=http://{user}:{secret}@host/"]))


def bytes_below(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_neither_spool_nor_store_nor_artifact_gets_it(tmp_path, folder, record, database, still):
    config = load_config(None, [f"tracking.uri={URI}"])
    start = dataclasses.replace(
        synthetic_start(record.name),
        config=flatten(config.tree),
        config_yaml=config.to_yaml(),
        command=f"python -m tkd_search.run --set tracking.uri={URI}",
    )
    tracker = MlflowTracker(database, folder)
    tell_all(tracker, record, folder, start=start)
    drain_here(tracker)
    written = bytes_below(tmp_path)
    assert b"host.example" in written
    assert b"hunter2" not in written


def test_a_login_is_not_sent_to_another_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "before")
    with impatient_client("http://ann:hunter2@host.example"):
        assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "hunter2"
    assert "MLFLOW_TRACKING_USERNAME" not in os.environ
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "before"


def test_neither_terminal_nor_log_shows_it(monkeypatch, capsys):
    monkeypatch.setattr(run, "__name__", "__main__")
    monkeypatch.setattr("sys.argv", ["run.py", "--set", f"tracking.uri={URI}", "--name", "x"])
    shown = [
        run.resume_command(load_config(None, [f"tracking.uri={URI}"])),
        str(UserError("tracking.uri", URI, f"another than {URI}", URI)),
        Check("tracking", "ok", URI).line(),
        reason(OSError(f"cannot reach {URI}")),
    ]
    Console().note(f"tracked at {URI}")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(MaskingFormatter())
    handler.emit(logging.LogRecord("x", logging.ERROR, "", 0, "at %s", (URI,), None))
    for text in [*shown, capsys.readouterr().out, stream.getvalue()]:
        assert "hunter2" not in text
        assert "host.example" in text


def test_a_run_goes_on_though_its_stored_configuration_has_no_login():
    given = load_config(None, [f"search.warm_start=['postgresql://me:{SECRET}@db/x']"])
    assert differences(parse_config(yaml.safe_load(given.to_yaml())), given) == []
