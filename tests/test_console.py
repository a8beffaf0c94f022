"""What the terminal shows of a search that has ended."""

import dataclasses
import io

import rich.console

from tests.tracking.synthetic import synthetic_search, taught_by
from tkd_search.console import Console, failures


def shown(record, folder):
    """The lines below each other that a log gets."""
    out = io.StringIO()
    Console(rich.console.Console(file=out, width=160, soft_wrap=True)).front(record, folder)
    return out.getvalue().splitlines()


def test_the_table_has_a_method_also_where_it_was_not_searched(tmp_path):
    record = synthetic_search(14)
    methods = [line.split("│")[3].strip() for line in shown(record, tmp_path) if line.startswith("│")]
    assert methods == [member.config["method.name"] for member in record.front]
    fixed = [line for line in shown(taught_by(record, "dkd"), tmp_path) if line.startswith("│")]
    assert [line.split("│")[3].strip() for line in fixed] == ["dkd"] * len(record.front)


def test_failed_trials_have_their_reasons_by_kind_and_where_the_rest_is(tmp_path):
    """Figures make no kind of their own; text after the first line, and of the rarest kinds, is elsewhere."""
    diverged = "Diverged: the loss is not finite in epoch {} (ce {}, kd 1.5e-3); lower training.lr"
    reasons = [
        *("student.width: found 7\n  allowed: less", "its worker group failed repeatedly", "", "Odd: one"),
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
        "  1 × its worker group failed repeatedly (0001)",
        "  3 × other reasons",
        f"  more of them: {tmp_path / 'record.json'}, and each trial's tag `reason` in MLflow",
    ]
    long = dataclasses.replace(record, trials=(failed[6],), tracking_uri="")
    line, whole = failures(long, tmp_path)
    assert line == f"1 × Odd: {'x' * 154}… (0006)"
    assert whole == f"more of them: {tmp_path / 'record.json'}"
    assert failures(synthetic_search(14), tmp_path) == []
