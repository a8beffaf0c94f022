import json
import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tkd_search.files import DiskFullError
from tkd_search.tracking.event_log import (
    EventLog,
    all_events,
    events_file,
    last_sequence,
    read_events,
)
from tkd_search.tracking.mlflow.writer_status import (
    ACKNOWLEDGED_FILE,
    Acknowledged,
    read_acknowledged,
    write_acknowledged,
)

DATA = st.dictionaries(
    st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=30), st.booleans()), max_size=4
)


@settings(max_examples=40, deadline=None)
@given(
    events=st.lists(st.tuples(st.sampled_from(["epoch", "progress"]), DATA), max_size=12),
    limit=st.integers(1, 5),
    torn=st.binary(max_size=20).filter(lambda tail: b"\n" not in tail),
)
def test_what_was_appended_is_read_in_order_whatever_the_batches_and_a_torn_tail(
    tmp_path_factory, events, limit, torn
):
    folder = tmp_path_factory.mktemp("run")
    event_log = EventLog(folder)
    assert [event_log.append(kind, data) for kind, data in events] == list(range(len(events)))
    event_log.close()
    with event_log.path.open("ab") as file:
        file.write(torn)
    read, offset = [], 0
    while True:
        some, offset = read_events(event_log.path, offset, limit)
        if not some:
            break
        assert len(some) <= limit
        read += some
    assert [(event.kind, event.data) for event in read] == events
    assert [event.sequence for event in read] == list(range(len(events)))
    again = EventLog(folder)
    assert again.append("more", {}) == len(events)
    again.close()
    assert [event.sequence for event in all_events(again.path)] == list(range(len(events) + 1))


def test_last_sequence_looks_back_over_lines_longer_than_a_block(tmp_path):
    event_log = EventLog(tmp_path)
    assert last_sequence(event_log.path) == -1
    for size in (10, 100_000, 5):
        event_log.append("big", {"text": "x" * size})
    assert last_sequence(event_log.path) == 2
    with event_log.path.open("ab") as file:
        file.write(b'{"sequence": 3, "kind": "torn' + b"y" * 50_000)
    assert last_sequence(event_log.path) == 2
    assert len(EventLog(tmp_path)) == 3


def test_a_line_of_zeros_left_by_a_power_cut_is_skipped(tmp_path):
    event_log = EventLog(tmp_path)
    event_log.append("a", {})
    with event_log.path.open("ab") as file:
        file.write(b"\0" * 40 + b"\n")
    reopened = EventLog(tmp_path)
    reopened.append("b", {})
    events, offset = read_events(event_log.path)
    assert [event.kind for event in events] == ["a", "b"]
    assert offset == event_log.path.stat().st_size


def test_acknowledged_belongs_to_one_store(tmp_path):
    there = Acknowledged(target="sqlite:///a.db", offset=120, sequence=3)
    assert read_acknowledged(tmp_path, "sqlite:///a.db").sequence == -1
    write_acknowledged(tmp_path, there)
    assert read_acknowledged(tmp_path, "sqlite:///a.db") == there
    assert read_acknowledged(tmp_path, "http://other") == Acknowledged(target="http://other")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"target": "t"}', '{"target": "t", "offset": "x"}'])
def test_a_damaged_acknowledgement_means_replay(tmp_path, text):
    (tmp_path / ACKNOWLEDGED_FILE).write_text(text)
    assert read_acknowledged(tmp_path, "t") == Acknowledged(target="t")


def test_a_full_disk_is_stated_and_leaves_whole_lines(tmp_path):
    """A limit on the size of files refuses writes as a full disk does: some bytes, then an error."""
    script = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        from tkd_search.files import DiskFullError
        from tkd_search.tracking.event_log import EventLog
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        spool = EventLog(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            for number in range(100):
                spool.append("epoch", {"number": number})
        except DiskFullError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, resource.RLIM_INFINITY))
            print(error, "|", number, "|", spool.append("epoch", {"after": True}))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=os.getcwd(),
    )
    message, failed, after = done.stdout.split("|")
    assert "full disk" in message
    assert "same command" in message
    assert int(failed) == int(after)
    lines = events_file(tmp_path).read_text().splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == list(range(int(after) + 1))


def test_the_disk_full_error_travels_between_processes(tmp_path):
    import copy

    error = DiskFullError(tmp_path, "No space left on device")
    assert str(copy.copy(error)) == str(error)
    assert error.exit_code == 2
