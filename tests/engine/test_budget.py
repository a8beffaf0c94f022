"""Limits of a search: trials, hours, epochs, plateau."""

import time
from dataclasses import replace

from tkd_search.config.search_settings import SearchSettings
from tkd_search.engine.budget import Budget
from tkd_search.engine.search_state import SearchState
from tkd_search.tracking.event_log import Event, EventLog
from tkd_search.tracking.search_log import fold_events, read_search_log


def test_hours_are_counted_over_all_drivers_of_a_search():
    def event(kind, at, **data):
        return Event(sequence=0, time=1_000_000 + at * 1000, kind=kind, data=data)

    def seconds(*events):
        return fold_events(events).seconds

    two = [event("driver_started", 0), event("note", 60), event("driver_started", 5000), event("note", 5030)]
    assert seconds() == 0
    assert seconds(*two) == 90
    assert seconds(*two[1:]) == 30
    opened, closed = event("driver_started", 5000, seconds=40.5), event("driver_ended", 5036)
    assert seconds(*two[:2], opened, two[3]) == 60 + 40.5 + 30
    assert seconds(*two[:2], opened, two[3], closed) == 60 + 40.5 + 36
    limits = SearchSettings(trials=9, max_hours=1.0)
    at = Budget(limits, 90.0, 0.0, clock=lambda: 3600 - 90)
    before = Budget(limits, 90.0, 0.0, clock=lambda: 3600 - 91)
    search_state = SearchState(
        running=0, complete=1, stopped=0, not_trained=0, failed=0, epochs=3, front=(), hypervolume=0.0
    )
    assert at.exhausted(search_state, 1, []) == "1 hours (search.max_hours)"
    assert before.exhausted(search_state, 1, []) == ""


def test_a_clock_that_is_set_changes_no_hours(tmp_path, monkeypatch):
    log = EventLog(tmp_path)
    for at, shown in ((1, 50_000), (61, 78_860), (91, 46_490)):
        monkeypatch.setattr(time, "monotonic_ns", lambda at=at: at * 10**9)
        monkeypatch.setattr(time, "time_ns", lambda shown=shown: shown * 10**9)
        log.append("note", {})
    log.close()
    assert read_search_log(tmp_path).seconds == 90
    earlier = [Event(sequence=0, time=at * 1000, kind="note", data={}) for at in (5000, 1400, 1430)]
    assert fold_events(earlier).seconds == 30


def test_whichever_limit_is_reached_first_ends_a_search():
    limits = SearchSettings(trials=9, max_epochs=30, max_hours=2.5, plateau=2)
    search_state = SearchState(
        running=0, complete=1, stopped=0, not_trained=0, failed=0, epochs=29, front=(), hypervolume=0.0
    )
    early, late = (Budget(limits, 60.0, 100.0, clock=lambda now=now: now) for now in (100, 100 + 8940))
    assert early.exhausted(search_state, 8, [0.1, 0.2]) == ""
    assert early.exhausted(search_state, 9, []) == "9 trials"
    assert early.exhausted(replace(search_state, epochs=30), 8, []) == "30 epochs (search.max_epochs)"
    assert late.exhausted(search_state, 8, []) == "2.5 hours (search.max_hours)"
    assert (
        early.exhausted(search_state, 8, [0.2, 0.1, 0.2])
        == "no gain in hypervolume over 2 trials (search.plateau)"
    )
    assert early.exhausted(search_state, 8, [0.2, 0.1, 0.3]) == ""
    unlimited = Budget(SearchSettings(trials=9), clock=lambda: 1e9)
    assert unlimited.exhausted(replace(search_state, epochs=10**6), 8, [0.2] * 8) == ""
