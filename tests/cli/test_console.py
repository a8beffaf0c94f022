"""What the terminal shows of a search that has ended."""

import dataclasses
import io
import re

import pytest
import rich.console

from tests.tracking.synthetic import synthetic_search, taught_by
from tkd_search.cli.console import Console, failures
from tkd_search.engine.search_state import SearchState
from tkd_search.results.records import Reference
from tkd_search.units import ratio_text


def shown(record, folder):
    """Return the lines that are printed to a log."""
    out = io.StringIO()
    Console(rich.console.Console(file=out, width=160, soft_wrap=True)).front(record, folder)
    return out.getvalue().splitlines()


def rows(lines):
    """Return the cells of the table's rows, which follow the line under the heads."""
    start = next(number for number, line in enumerate(lines) if line.startswith("──"))
    return [re.split(r" {2,}", line.strip()) for line in lines[start + 1 : lines.index("", start)]]


def on_a_terminal(record, folder, columns):
    """Return the lines on a terminal of so many columns."""
    out = io.StringIO()
    terminal = rich.console.Console(
        file=out, width=columns, force_terminal=True, color_system=None, soft_wrap=True
    )
    Console(terminal).front(record, folder)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def with_long_names(record):
    """Return the same front with ids, names and figures of the lengths that occur in practice."""
    front = [
        dataclasses.replace(
            member,
            trial_id=f"t{member.trial_id}",
            student="mobilenet_v2 ×0.379 d0.5",
            bytes=1_070_000,
            val_accuracy=1.0,
            test_accuracy=0.9135,
            retention=1.0,
        )
        for member in record.front
    ]
    return dataclasses.replace(record, front=tuple(front))


@pytest.mark.parametrize(("trials", "lines"), [(1, 1), (16, 16), (26, 26), (100, 20), (1000, 20)])
def test_a_log_follows_a_search_of_any_size(trials, lines):
    out = io.StringIO()
    console = Console(rich.console.Console(file=out, width=160, soft_wrap=True))
    console.stage("search", trials)
    for done in range(trials + 1):
        for epochs in range(3):  # the state is shown at every epoch
            console.search_state(SearchState(1, done, 0, 0, 0, epochs, (), 0.0))
    assert len(out.getvalue().splitlines()) == 1 + lines


def test_the_table_shows_the_method_also_if_it_was_not_searched(tmp_path):
    record = synthetic_search(14)
    methods = [row[2] for row in rows(shown(record, tmp_path))]
    assert methods == [member.config["method.name"] for member in record.front]
    fixed = rows(shown(taught_by(record, "dkd"), tmp_path))
    assert [row[2] for row in fixed] == ["dkd"] * len(record.front)


@pytest.mark.parametrize(("cost", "columns"), [("bytes", 80), ("latency", 81)])
def test_80_columns_show_every_cell_whole_and_each_row_on_one_line(tmp_path, cost, columns):
    record = with_long_names(taught_by(synthetic_search(14, cost=cost), "tkd"))
    size, *figures = ["1.07 MB", "100.00%", "91.35%", "100.0%"]
    assert rows(on_a_terminal(record, tmp_path, columns)) == [
        [
            *(m.trial_id, m.student, "tkd"),
            *([size, ratio_text(m.ratio)] if cost == "bytes" else [f"{m.latency:.3g}", size]),
            *figures,
        ]
        for m in record.front
    ]


@pytest.mark.parametrize("columns", [69, 60, 50])
def test_narrow_terminals_omit_columns_and_cut_no_figure(tmp_path, columns):
    record = with_long_names(synthetic_search(14))
    lines = on_a_terminal(record, tmp_path, columns)
    whole = [row for row in rows(lines) if len(row) > 1]
    assert [row[0] for row in whole] == [member.trial_id for member in record.front]
    assert all(row[2:] == ["1.07 MB", "100.00%", "91.35%", "100.0%"] for row in whole)
    table = lines[1 : lines.index("")]
    assert max(map(len, table)) <= columns
    assert "…" not in "".join(table)


def test_square_brackets_in_a_name_are_shown(tmp_path):
    record = synthetic_search(14)
    front = [dataclasses.replace(member, student="own widths=[8] [bold]") for member in record.front]
    found = rows(shown(dataclasses.replace(record, front=tuple(front)), tmp_path))
    assert {row[1] for row in found} == {"own widths=[8] [bold]"}


def test_failed_trials_show_their_reasons_by_kind_and_where_all_reasons_are(tmp_path):
    """Reasons that differ in figures are one kind; only first lines and the most frequent kinds are shown."""
    diverged = "Diverged: the loss is not finite in epoch {} (ce {}, kd 1.5e-3); lower training.lr"
    reasons = [
        *("student.width: found 7\n  allowed: less", "its process was lost", "", "Odd: one"),
        *(diverged.format(2, "nan"), diverged.format(3, "7.1e+08"), "Odd: " + "x" * 500),
    ]
    record = synthetic_search(14, tracking_uri="sqlite:///mlflow.db")
    failed = [
        dataclasses.replace(trial, state="failed", reason=reason)
        for trial, reason in zip(record.trials, reasons, strict=False)
    ]
    record = dataclasses.replace(record, trials=(*failed, *record.trials[len(failed) :]))
    lines = shown(record, tmp_path)
    at = next(number for number, line in enumerate(lines) if "7 failed" in line)
    assert lines[at + 1 : at + 6] == [
        f"  2 × {diverged.format(2, 'nan')} (0004)",
        "  1 × student.width: found 7 (0000)",
        "  1 × its process was lost (0001)",
        "  3 × other reasons",
        f"  all reasons: {tmp_path / 'record.json'}, and each trial's tag `reason` in MLflow",
    ]
    long = dataclasses.replace(record, trials=(failed[6],), tracking_uri="")
    line, all_reasons = failures(long, tmp_path)
    assert line == f"1 × Odd: {'x' * 154}… (0006)"
    assert all_reasons == f"all reasons: {tmp_path / 'record.json'}"
    assert failures(synthetic_search(14), tmp_path) == []


def test_the_students_that_a_reference_beats_are_named(tmp_path):
    """F itself in int8 beats the members that are not smaller and not more accurate, and no others."""
    record = synthetic_search(14)
    smallest, *_, largest = sorted(record.front, key=lambda member: member.bytes)
    whole = Reference(
        format="fp32",
        bytes=record.big_model.bytes,
        ratio=1.0,
        val_accuracy=record.big_model.val_accuracy,
        test_accuracy=0.5,
    )

    def line(bytes, accuracy):
        int8 = dataclasses.replace(whole, format="int8", bytes=bytes, ratio=0.25, val_accuracy=accuracy)
        big = dataclasses.replace(record.big_model, references=(whole, int8))
        lines = shown(dataclasses.replace(record, big_model=big), tmp_path)
        (found,) = [line for line in lines if "the big model in" in line]
        return found.partition("; ")

    start, _, beaten = line(largest.bytes - 1, largest.val_accuracy)
    assert start.startswith("  the big model in int8, without training: ")
    assert beaten == f"it is better than {largest.trial_id}"
    assert line(1, 1.0)[2] == "it is better than " + ", ".join(member.trial_id for member in record.front)
    assert line(largest.bytes + 1, 1.0)[2] == ""
    assert line(1, smallest.val_accuracy - 0.01)[2] == ""
