"""The lock of a run's folder, and what others see of its holder."""

import json
import threading

import pytest
from filelock import FileLock

from tkd_search.engine.run_dir.run_lock import DRIVER_FILE, LOCK_FILE, Driver, live_driver, run_lock
from tkd_search.errors import UserError

ELSEWHERE = {"pid": 1, "created": 0.0, "host": "elsewhere"}
CLOCK_SET = {**vars(Driver.this_process()), "created": 0.0}


def test_the_holder_is_the_live_driver_until_the_block_ends(tmp_path):
    assert live_driver(tmp_path) is None
    with run_lock(tmp_path):
        assert live_driver(tmp_path) == Driver.this_process()
    assert live_driver(tmp_path) is None


def test_a_second_driver_is_refused_with_the_name_of_the_first(tmp_path):
    with (
        run_lock(tmp_path / "digits"),
        pytest.raises(UserError, match=rf"--name digits: .*process {Driver.this_process().pid} on "),
        run_lock(tmp_path / "digits"),
    ):
        pass


def test_looking_for_the_driver_neither_refuses_a_start_nor_finds_an_ended_one(tmp_path):
    """While one thread looks without a pause, a start succeeds every time, also beside a stale note."""
    (tmp_path / LOCK_FILE).touch()
    (tmp_path / DRIVER_FILE).write_text(json.dumps(CLOCK_SET))
    assert live_driver(tmp_path) is None
    ended, found = threading.Event(), []

    def look():
        while not ended.is_set():
            found.append(live_driver(tmp_path))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(200):
            with run_lock(tmp_path):
                pass
    finally:
        ended.set()
        looking.join()
    # A start takes the lock before it replaces the note.
    assert set(found) <= {None, Driver.this_process(), Driver(**CLOCK_SET)}


@pytest.mark.parametrize("note", [ELSEWHERE, CLOCK_SET], ids=["elsewhere", "clock set"])
def test_a_driver_that_is_not_found_here_is_live_as_long_as_the_lock_is_held(tmp_path, note):
    (tmp_path / DRIVER_FILE).write_text(json.dumps(note))
    assert live_driver(tmp_path) is None
    with FileLock(tmp_path / LOCK_FILE):
        assert live_driver(tmp_path) == Driver(**note)
    with run_lock(tmp_path):  # looking has released the lock
        pass


def test_a_start_waits_for_a_look_from_another_machine(tmp_path):
    """To look at such a run takes its lock for an instant, which must not refuse a start."""
    lock = FileLock(tmp_path / LOCK_FILE, thread_local=False)
    lock.acquire()
    release = threading.Timer(0.1, lock.release)
    release.start()
    with run_lock(tmp_path):
        pass
    release.join()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_note_that_cannot_be_read_names_no_driver(tmp_path, text):
    (tmp_path / DRIVER_FILE).write_text(text)
    assert live_driver(tmp_path) is None
