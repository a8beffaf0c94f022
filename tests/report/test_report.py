import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracking.synthetic import TAPS, synthetic_search, taught_by
from tkd_search.errors import UserError
from tkd_search.report import write_report
from tkd_search.report.figures import accuracy_window, by_end, tap_shares
from tkd_search.report.front_csv import front_frame
from tkd_search.report.importance import importances, merit
from tkd_search.report.label_placement import Box, place_labels
from tkd_search.report.run_links import trial_links
from tkd_search.report.style import cost_ticks
from tkd_search.results.records import EpochRecord, Reference
from tkd_search.tracking.mlflow.writer_status import note_runs


@pytest.mark.parametrize("cost", ["bytes", "latency"])
def test_the_three_files_and_what_the_page_holds(tmp_path, cost):
    record = synthetic_search(cost=cost)
    csv, png, page = write_report(record, tmp_path)
    frame = pd.read_csv(csv, dtype={"trial_id": str})
    assert list(frame["trial_id"]) == [m.trial_id for m in sorted(record.front, key=lambda m: m.cost)]
    assert {"ratio", "retention", "latency_ms_1", "path", "method.name"} <= set(frame)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.stat().st_size < 300_000
    text = page.read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", text), "the page fetches something"
    for words in ("What mattered", "Which features", "Hypervolume over epochs", "Learning curves"):
        assert words in text
    for member in record.front:
        assert f">{member.trial_id}<" in text
    for trial in record.trials:
        assert f"trial {trial.trial_id}" in text
    assert "10 % of the big model" in text
    assert ("latency_ms" in frame) == (cost == "latency")
    if cost == "latency":
        assert list(frame["latency_ms"]) == pytest.approx(sorted(m.latency for m in record.front))
        assert "Latency against accuracy" in text
        assert "latency of one image (log scale)" in text
        assert "size of the weights" not in text


def test_searches_with_different_costs_have_no_common_picture(tmp_path):
    records = [synthetic_search(6), synthetic_search(6, name="other", cost="latency")]
    with pytest.raises(UserError, match="bytes and latency"):
        write_report(records, tmp_path)
    assert list(tmp_path.iterdir()) == []


def with_references(record):
    """The same search with the big model in fp32 and int8, and in an int4 that keeps nothing."""
    figures = [("fp32", 1.0, record.big_model.val_accuracy), ("int8", 0.25, 0.98), ("int4", 0.13, 0.1)]
    references = tuple(
        Reference(
            format=format,
            bytes=int(ratio * record.big_model.bytes),
            ratio=ratio,
            val_accuracy=accuracy,
            test_accuracy=accuracy,
        )
        for format, ratio, accuracy in figures
    )
    return dataclasses.replace(record, big_model=dataclasses.replace(record.big_model, references=references))


@pytest.mark.parametrize("empty", [False, True])
def test_the_table_ends_with_the_references_and_pandas_front_has_none(tmp_path, empty):
    record = with_references(synthetic_search(14))
    record = dataclasses.replace(record, front=()) if empty else record
    csv, _, _ = write_report(record, tmp_path)
    frame = pd.read_csv(csv, dtype={"trial_id": str})
    assert list(frame["kind"]) == ["student"] * len(record.front) + ["reference"] * 3
    students, others = (frame[frame.kind == kind].drop(columns="kind") for kind in ("student", "reference"))
    pd.testing.assert_frame_equal(
        students, front_frame([record]), check_dtype=False, check_column_type=False, check_index_type=False
    )
    assert list(others["student"]) == [f"{record.big_model.name} {name}" for name in ("int4", "int8", "fp32")]
    assert list(others["ratio"]) == [0.13, 0.25, 1.0]
    assert list(others["retention"]) == list(others["test_accuracy"] / record.big_model.test_accuracy)
    assert others[["trial_id", "path"]].isna().all(axis=None)
    joint, _, _ = write_report([record, dataclasses.replace(record, name="other")], tmp_path)
    assert list(pd.read_csv(joint).groupby("kind")["search"].value_counts().reference) == [3, 3]


def test_the_page_names_the_metric_of_the_search(tmp_path):
    record = synthetic_search()
    _, _, page = write_report(dataclasses.replace(record, metric="macro_f1"), tmp_path)
    text = page.read_text()
    assert text.count("macro F1") >= 4
    assert "alidation accuracy" not in text
    _, _, page = write_report((record, dataclasses.replace(record, name="b", metric="macro_f1")), tmp_path)
    assert "validation accuracy or macro F1" in page.read_text()


def test_the_page_says_how_students_were_taught_also_where_nothing_else_was_tried(tmp_path):
    record = taught_by(synthetic_search(14), "dkd")
    _, _, page = write_report(record, tmp_path)
    assert page.read_text().count("<td class='l'>dkd</td>") == len(record.front)


@pytest.mark.parametrize(("weak", "words"), [(1, "1 weaker trial lies"), (2, "2 weaker trials lie")])
def test_trials_below_the_window_are_counted_in_good_grammar(tmp_path, weak, words):
    record = synthetic_search()
    _, _, page = write_report(with_weakest(record, weak), tmp_path)
    assert f"{words} below this window" in page.read_text()


def with_weakest(record, count):
    """The search with only so many trials below the picture's window."""
    front = {member.trial_id for member in record.front}
    rest = [trial for trial in record.trials if trial.trial_id not in front]
    weak = [
        dataclasses.replace(trial, epochs=(EpochRecord(epoch=1, val_accuracy=0.12),))
        for trial in rest[:count]
    ]
    members = [trial for trial in record.trials if trial.trial_id in front]
    return dataclasses.replace(record, trials=(*weak, *members))


def test_only_complete_trials_were_trained_fully():
    (trial, *_) = synthetic_search().trials
    states = ("complete", "stopped", "failed", "running")
    groups = by_end([dataclasses.replace(trial, state=state) for state in states])
    found = {words: [one.state for one in trials] for words, trials in groups.items()}
    assert found == {
        "trained fully": ["complete"],
        "stopped early": ["stopped"],
        "failed or running": ["failed", "running"],
    }


def test_several_searches_side_by_side(tmp_path):
    records = [synthetic_search(), synthetic_search(20, seed=5, name="other")]
    csv, _, page = write_report(records, tmp_path)
    assert set(pd.read_csv(csv)["search"]) == {"digits", "other"}
    assert "front of other" in page.read_text()


@pytest.mark.parametrize("kind", ["no trials", "running", "one trial", "nan", "hostile names"])
def test_unfinished_and_odd_searches_have_a_report(tmp_path, kind):
    record = synthetic_search(trials=14)
    if kind == "no trials":
        record = dataclasses.replace(record, trials=(), front=(), history=())
    if kind == "one trial":
        record = dataclasses.replace(record, trials=record.trials[:1], front=(), history=record.history[:1])
    if kind == "running":
        trial = dataclasses.replace(record.trials[3], epochs=(), state="running")
        record = dataclasses.replace(record, trials=(*record.trials[:3], trial), front=())
    if kind == "nan":
        bad = EpochRecord(epoch=1, val_accuracy=float("nan"))
        failed = dataclasses.replace(record.trials[0], epochs=(bad,), state="failed", reason="loss is NaN")
        record = dataclasses.replace(record, trials=(failed, *record.trials[1:]))
    if kind == "hostile names":
        trials = tuple(
            dataclasses.replace(trial, student="<script>alert(1)</script>") for trial in record.trials
        )
        front = tuple(dataclasses.replace(one, student="<script>alert(1)</script>") for one in record.front)
        record = dataclasses.replace(record, name="<b>", trials=trials, front=front)
    files = write_report(record, tmp_path)
    assert all(path.stat().st_size > 0 for path in files)
    assert "<script>alert(1)" not in files[2].read_text()


def never_complete(state, reasons):
    """A search whose trials all ended before their first epoch was over."""
    record = synthetic_search(trials=len(reasons))
    trials = tuple(
        dataclasses.replace(trial, state=state, reason=reason, epochs=())
        for trial, reason in zip(record.trials, reasons, strict=True)
    )
    empty = tuple((0, 0.0) for _ in trials)
    return dataclasses.replace(record, trials=trials, front=(), history=empty, hypervolume=0.0)


def page_of(record, folder):
    """What the report's page holds beside plotly's code."""
    return write_report(record, folder)[2].read_text().partition("<main>")[2]


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_where_no_trial_completed_the_page_says_why_and_draws_nothing_empty(tmp_path, state):
    reasons = ["the loss <is> nan in epoch 1", "the loss <is> inf in epoch 2", "no such tap"]
    page = page_of(never_complete(state, reasons), tmp_path)
    assert "No trial has completed, so there is no front." in page
    assert "<li>2 × the loss &lt;is&gt; nan in epoch 1 (0000)</li><li>1 × no such tap (0002)</li>" in page
    for words in ("plotly", "<table>", "Size against", "Learning curves", "Hypervolume over epochs"):
        assert words not in page
    interrupted = dataclasses.replace(never_complete(state, reasons), status="interrupted")
    assert "No trial has completed yet, so there is no front." in page_of(interrupted, tmp_path)


def test_beside_a_search_without_a_front_the_other_is_drawn(tmp_path):
    empty = dataclasses.replace(never_complete("failed", ["no such tap"]), name="empty")
    page = page_of([empty, synthetic_search(14)], tmp_path)
    assert page.count("<table>") == page.count("Learning curves · ") == 1
    assert "<li>1 × no such tap (0000)</li>" in page
    assert '"front of empty"' not in page, "a legend for nothing"
    running = dataclasses.replace(synthetic_search(14), front=(), status="running")
    assert "The front is chosen when the search ends." in page_of(running, tmp_path)


def test_links_lead_to_the_run_where_it_is_known_and_to_a_filter_otherwise(tmp_path):
    there = {"experiment_id": "7", "parent_run_id": "p"}
    assert trial_links(synthetic_search(trials=3, tracking_uri="sqlite:///x.db", **there), tmp_path) == {}
    record = synthetic_search(trials=3, tracking_uri="http://host:5000", **there)
    note_runs(tmp_path, "p", {"0001": "run1"})
    note_runs(tmp_path, "p", {"0002": "run2"})
    links = trial_links(record, tmp_path)
    assert links["0001"].startswith("http://host:5000/#/experiments/7/runs/run1?")
    assert "runs/run2?" in links["0002"]
    assert "searchFilter=" in links["0000"]
    assert "0000" in links["0000"]


SIZES = st.tuples(st.floats(10, 90), st.floats(6, 16))
PLACES = st.tuples(st.floats(0, 600), st.floats(0, 400))


@settings(deadline=None)
@given(labels=st.lists(st.tuples(PLACES, SIZES), max_size=20), points=st.lists(PLACES, max_size=20))
def test_labels_cover_neither_each_other_nor_points_nor_leave_the_frame(labels, points):
    frame = Box(0, 0, 600, 400)
    obstacles = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    placed = place_labels([a for a, _ in labels], [s for _, s in labels], obstacles, frame)
    boxes = [box for box in placed if box is not None]
    assert len(placed) == len(labels)
    assert all(box.inside(frame) for box in boxes)
    assert not any(box.overlaps(other) for box in boxes for other in obstacles)
    assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])


def test_a_lonely_label_has_room():
    (box,) = place_labels([(300.0, 200.0)], [(80.0, 12.0)], [], Box(0, 0, 600, 400))
    assert box is not None


def planted(seed, effect, trials=45):
    """A search in which one setting alone decides what is not decided by size and epochs."""
    rng = np.random.default_rng(seed)
    record = synthetic_search(trials=trials, seed=seed)
    changed = []
    for trial in record.trials:
        config = {"a": float(rng.normal()), "b": float(rng.normal()), "c": str(rng.choice(["x", "y"]))}
        config["size_only"] = float(trial.bytes)
        above = effect(config) + 0.002 * float(rng.normal())
        base = 0.7 + 0.05 * np.log10(trial.bytes / 1e5)
        epochs = tuple(
            EpochRecord(epoch=one.epoch, val_accuracy=base - 0.3 / one.epoch + above) for one in trial.epochs
        )
        changed.append(dataclasses.replace(trial, config=config, epochs=epochs))
    return dataclasses.replace(record, trials=tuple(changed))


@pytest.mark.parametrize(
    ("effect", "name"),
    [
        (lambda c: 0.02 * c["a"], "a"),
        (lambda c: 0.04 * (c["c"] == "x"), "c"),
        (lambda c: -0.02 * abs(c["b"]), "b"),
    ],
)
def test_the_setting_that_decides_is_ranked_first(effect, name):
    found = importances(planted(0, effect))
    assert found.ranking[0].name == name
    assert found.ranking[0].share > 3 * max(one.share for one in found.ranking[1:])
    assert found.explained > 0.4


def test_where_nothing_matters_little_is_explained():
    found = importances(planted(3, lambda config: 0.0))
    assert found.explained < 0.2


def test_a_setting_that_only_makes_students_larger_gets_no_credit():
    found = importances(planted(4, lambda config: 0.02 * config["a"]))
    (size,) = (one for one in found.ranking if one.name == "size_only")
    assert size.share < 0.1


def test_few_trials_or_nothing_searched_have_no_ranking():
    assert importances(synthetic_search(trials=8)) is None
    record = synthetic_search(trials=20)
    fixed = tuple(dataclasses.replace(trial, config={"a": 1}) for trial in record.trials)
    assert importances(dataclasses.replace(record, trials=fixed)) is None


def test_merit_does_not_depend_on_size_epochs_or_scale():
    record = planted(5, lambda config: 0.02 * config["a"])
    figures = merit(record.trials)
    sizes = np.log10([trial.bytes for trial in record.trials])
    assert abs(np.corrcoef(figures, sizes)[0, 1]) < 0.3
    doubled = [
        dataclasses.replace(
            trial,
            epochs=tuple(dataclasses.replace(one, val_accuracy=one.val_accuracy / 2) for one in trial.epochs),
        )
        for trial in record.trials
    ]
    np.testing.assert_allclose(merit(doubled), figures, atol=1e-9)


def test_taps_are_counted_per_epoch():
    record = synthetic_search(trials=6)
    weights = [{"weight.a": 0.75, "weight.b": 0.25}, {"weight.a": 1.0, "weight.b": 0.0}, {}]
    trials = tuple(
        dataclasses.replace(
            trial,
            epochs=tuple(
                EpochRecord(epoch=place + 1, val_accuracy=0.5, metrics=metrics)
                for place, metrics in enumerate(weights)
            ),
        )
        for trial in record.trials
    )
    shares = tap_shares(dataclasses.replace(record, trials=trials))
    assert [(tap.name, tap.share, tap.weight) for tap in shares] == [("a", 1.0, 0.875), ("b", 0.5, 0.25)]
    assert {tap.name for tap in tap_shares(record)} <= set(TAPS)


def test_the_window_shows_the_front_and_the_big_model():
    record = synthetic_search()
    low, high = accuracy_window([record])
    values = [member.val_accuracy for member in record.front] + [record.big_model.val_accuracy]
    assert low < min(values)
    assert high > max(values)
    assert high - low < 3 * (max(values) - min(values))


@given(st.floats(1e2, 1e9), st.floats(1.2, 1e5))
def test_cost_ticks_lie_within_and_are_few(low, factor):
    ticks = cost_ticks(low, low * factor)
    assert all(low <= tick <= low * factor for tick in ticks)
    assert len(ticks) <= 9
