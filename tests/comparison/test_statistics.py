"""Means, deviations and paired differences: against textbook figures, and by symmetry."""

import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tkd_search.comparison.mlflow_page import log_comparison
from tkd_search.comparison.paired_statistics import Failure, Training, paired_difference, summarise
from tkd_search.comparison.tables import markdown, write_tables
from tkd_search.errors import UserError
from tkd_search.results.records import BigModelRecord

ACCURACIES = st.dictionaries(st.integers(0, 20), st.floats(0, 1), min_size=2, max_size=10)


def training(label, seed, test, **rest):
    figures = {"val_accuracy": test, "seconds_per_epoch": 0.5, "parameters": 10, "bytes": 40, **rest}
    return Training(label=label, seed=seed, test_accuracy=test, **figures)


def failure(label, seed):
    return Failure(label=label, seed=seed, failed="Diverged: loss nan", parameters=10, bytes=40)


BIG = BigModelRecord(name="alexnet", bytes=1000, parameters=250, val_accuracy=0.9, test_accuracy=0.8)


def test_the_interval_is_that_of_students_t():
    found = paired_difference({1: 0.6, 2: 0.7, 3: 0.8}, {1: 0.5, 2: 0.5, 3: 0.5})
    # differences .1 .2 .3: sd .1, error .1/√3, t(.975, 2) = 4.3027
    assert found.mean == pytest.approx(0.2)
    assert found.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3))
    assert found.pairs == 3
    assert found.low == pytest.approx(found.mean - found.half_width)


@settings(deadline=None)  # the machine may be busy
@given(ACCURACIES, ACCURACIES)
def test_swapping_the_sides_changes_the_sign_and_keeps_the_width(these, those):
    there, back = paired_difference(these, those), paired_difference(those, these)
    if there is None:
        assert back is None
        assert not these.keys() & those.keys()
        return
    assert there.mean == pytest.approx(-back.mean)
    assert there.half_width == pytest.approx(back.half_width)


@settings(deadline=None)  # the machine may be busy
@given(ACCURACIES, st.floats(-0.5, 0.5))
def test_a_constant_difference_has_an_interval_of_zero_width(these, gain):
    found = paired_difference({seed: value + gain for seed, value in these.items()}, these)
    assert found.mean == pytest.approx(gain, abs=1e-9)
    assert found.half_width == pytest.approx(0, abs=1e-9)


def test_only_common_seeds_are_paired_and_one_pair_has_an_infinite_interval():
    found = paired_difference({1: 0.6, 2: 0.9}, {1: 0.5, 3: 0.1})
    assert (found.pairs, found.half_width) == (1, math.inf)
    assert paired_difference({1: 0.6}, {2: 0.5}) is None


def test_rows_keep_their_order_and_the_base_has_no_difference(tmp_path):
    trainings = [training(label, s, t) for s in (1, 2) for label, t in (("tkd", 0.7 + s / 10), ("kd", 0.6))]
    tkd, kd = summarise(trainings, "kd")
    assert (tkd.label, kd.label, kd.difference) == ("tkd", "kd", None)
    assert tkd.difference.mean == pytest.approx(0.25)
    assert tkd.test_sd == pytest.approx(0.1 / math.sqrt(2))


def test_a_repeated_training_counts_once():
    (row,) = summarise([training("kd", 1, 0.1), training("kd", 1, 0.5)], "kd")
    assert (row.seeds, row.test_mean) == (1, 0.5)
    assert math.isnan(row.test_sd)


def test_the_tables_hold_the_figures(tmp_path):
    trainings = [training("kd", 1, 0.5), training("tkd", 1, 0.6, teachers=((1, "fc", 0.7, 0.2),))]
    winners = {"kd": {"method.lam": 0.51234}}
    rows = summarise(trainings, "kd")
    page = markdown(rows, winners, base="kd", big_model=BIG, title="t", command="again")
    assert "| tkd | 1 | 60.00 | 60.00 | +10.00 (one pair) |" in page
    assert "method.lam 0.512" in page
    assert "`again`" in page
    markdown_file, csv, teachers = write_tables(tmp_path, page, trainings)
    assert markdown_file.read_text() == page
    assert csv.read_text().splitlines()[0].startswith("label,seed,val_accuracy,test_accuracy")
    assert teachers.read_text().splitlines()[1] == "tkd,1,1,fc,0.7,0.2"


def test_the_winner_of_an_empty_space_is_as_configured():
    rows = summarise([training("kd", 1, 0.5)], "kd")
    page = markdown(rows, {"kd": {}}, base="kd", big_model=BIG, title="t", command="again")
    assert "- **kd**: as configured, nothing was searched\n" in page


def test_failed_trainings_are_counted_and_only_pairs_of_both_compared():
    trainings = [training(label, s, t) for s in (1, 2, 3) for label, t in (("tkd", 0.7), ("kd", 0.6))]
    tkd, kd = summarise([failure("tkd", 4), training("kd", 4, 0.1), failure("kd", 5), *trainings], "kd")
    assert (tkd.seeds, tkd.failed, kd.seeds, kd.failed) == (3, 1, 4, 1)
    assert tkd.test_mean == pytest.approx(0.7)
    assert (tkd.difference.mean, tkd.difference.pairs) == (pytest.approx(0.1), 3)


def test_a_contestant_whose_trainings_all_failed_has_a_row_without_figures(tmp_path):
    trainings = [training("kd", 1, 0.5), failure("tkd", 1), failure("tkd", 2)]
    kd, tkd = summarise(trainings, "kd")
    assert (tkd.seeds, tkd.failed, tkd.difference) == (0, 2, None)
    assert math.isnan(tkd.test_mean)
    page = markdown([kd, tkd], {}, base="kd", big_model=BIG, title="t", command="again")
    assert "| tkd | 0 of 2 seeds, 2 failed | – | – | – | – | 40 | 10 |" in page
    assert summarise(trainings, "tkd")[0].difference is None
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run_id = log_comparison(uri, "experiment", "comparison", [kd, tkd], [])
    from mlflow import MlflowClient

    metrics = MlflowClient(uri, uri).get_run(run_id).data.metrics
    assert {key for key in metrics if key.startswith("tkd.")} == {"tkd.seeds", "tkd.failed"}
    assert metrics["tkd.failed"] == 2


def test_the_tables_count_failures_with_their_reasons_and_how_to_run_them_again(tmp_path):
    kd = [training("kd", seed, 0.5) for seed in range(5)]
    tkd = [training("tkd", seed, 0.6) for seed in range(4)]
    trainings = [*tkd, failure("tkd", 4), *kd[1:], failure("kd", 0)]
    file = Path("comparison/tkd-0-4.json")
    failures = {file: trainings[4]}
    rows = summarise(trainings, "kd")
    page = markdown(rows, {}, base="kd", big_model=BIG, title="t", command="again", failures=failures)
    assert "| tkd | 4 of 5 seeds, 1 failed | 60.00 | 60.00 ± 0.00 | +10.00 ± 0.00 (3 pairs) |" in page
    assert "- **tkd**, seed 4: Diverged: loss nan (`comparison/tkd-0-4.json`)" in page
    assert "deleted" in page
    _, csv, _ = write_tables(tmp_path, page, trainings)
    table = pd.read_csv(csv)
    assert len(table) == 10
    assert list(table.seed[table.failed == "Diverged: loss nan"]) == [4, 0]
    assert table.test_accuracy.notna().sum() == table.failed.isna().sum() == 8


def test_a_page_without_failures_has_no_section_of_failures():
    rows = summarise([training("kd", 1, 0.5)], "kd")
    assert "ailed" not in markdown(rows, {}, base="kd", big_model=BIG, title="t", command="again")


def test_a_comparison_written_again_shows_its_new_figures(tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for trainings in (
        [failure("kd", 2), training("kd", 1, 0.5)],
        [training("kd", 2, 0.3), training("kd", 1, 0.5)],
    ):
        run_id = log_comparison(uri, "experiment", "comparison", summarise(trainings, "kd"), [])
    metrics = MlflowClient(uri, uri).get_run(run_id).data.metrics
    assert (metrics["kd.seeds"], metrics["kd.failed"]) == (2, 0)
    assert metrics["kd.test_mean"] == pytest.approx(0.4)


def test_a_store_that_does_not_answer_is_an_error():
    with pytest.raises(UserError, match="a tracking store that failed"):
        log_comparison("http://127.0.0.1:9", "experiment", "comparison", [], [])
