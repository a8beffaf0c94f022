"""The thread that watches the pool continues after an unexpected error and reports it."""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from tkd_search.engine.workers.periodic_checks import PeriodicChecks

WAIT = 60.0
"""Seconds until a test gives up; a round takes milliseconds."""


@pytest.fixture
def run() -> Iterator[Callable[[Exception], None]]:
    """Run a check that always raises this error until it was called three times."""
    opened: list[PeriodicChecks] = []

    def run(error: Exception) -> None:
        calls, third = itertools.count(1), threading.Event()

        def check() -> None:
            if next(calls) == 3:
                third.set()
            raise error

        opened.append(PeriodicChecks([check], seconds=0.001, name="groups", transient=(OSError,)))
        assert third.wait(WAIT)

    yield run
    for checks in opened:
        checks.close(WAIT)


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno == logging.WARNING]


def test_an_unexpected_error_is_logged_once_and_the_checks_continue(
    run: Callable[[Exception], None], caplog: pytest.LogCaptureFixture
) -> None:
    run(KeyError("slot7"))
    assert warnings(caplog) == ["a check of groups failed and is repeated every 0.001 s: KeyError: 'slot7'"]


def test_an_expected_error_is_not_logged(
    run: Callable[[Exception], None], caplog: pytest.LogCaptureFixture
) -> None:
    run(OSError("restarting"))
    assert warnings(caplog) == []


def test_a_failing_check_does_not_keep_the_others_from_running() -> None:
    called = threading.Event()

    def fail() -> None:
        raise ValueError("unexpected")

    checks = PeriodicChecks([fail, called.set], seconds=0.001, name="groups")
    assert called.wait(WAIT)
    checks.close(WAIT)
