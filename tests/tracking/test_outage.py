"""What the user is told of a store that does not answer."""

import logging
import socket
import threading
import time
from dataclasses import replace

import pytest
from mlflow import MlflowClient

from tests.tracking.stores import free_port
from tkd_search.tracking import MlflowTracker
from tkd_search.tracking.mlflow.store_errors import reason
from tkd_search.tracking.mlflow.writer_status import read_status, write_status


def test_a_refused_connection_is_said_in_a_few_words(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Exception, match="Max retries") as caught:
        MlflowClient(f"http://127.0.0.1:{free_port()}").search_experiments()
    assert reason(caught.value) == "it does not answer (Connection refused)"


def test_a_connection_that_breaks_off_is_said_as_well(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        hang_up = threading.Thread(target=lambda: listening.accept()[0].close())
        hang_up.start()
        with pytest.raises(Exception, match=r"Max retries|Connection") as caught:
            MlflowClient(f"http://127.0.0.1:{listening.getsockname()[1]}").search_experiments()
        hang_up.join()
    assert reason(caught.value).startswith("it does not answer (")


def test_an_answer_that_ends_early_is_said_as_well(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_half():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # unread bytes would make the close a reset
                    pass

        half = threading.Thread(target=answer_half)
        half.start()
        with pytest.raises(Exception, match="IncompleteRead") as caught:
            MlflowClient(f"http://127.0.0.1:{listening.getsockname()[1]}").search_experiments()
        half.join()
    assert reason(caught.value).startswith("it does not answer (")


def test_any_other_trouble_keeps_its_own_words():
    assert reason(ValueError("no such\n  thing")) == "no such thing"
    assert reason(ValueError()) == "ValueError"


def test_an_outage_is_told_once_however_its_words_change(tmp_path, caplog):
    tracker = MlflowTracker("http://127.0.0.1:9", tmp_path)
    tracker._started = time.monotonic()  # no writer: the test says what it would say
    tracker.folder.mkdir()
    status = read_status(tracker.folder)
    with caplog.at_level(logging.WARNING):
        for error in ("it does not answer", "it is busy", "", "it does not answer"):
            write_status(tracker.folder, replace(status, error=error))
            tracker._watch(tracker._started)
    told = [one.getMessage() for one in caplog.records]
    assert len(told) == 2
    assert all("it does not answer. The search goes on" in text for text in told)
