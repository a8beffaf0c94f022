"""``retrain``: its page, and what is refused."""

import json
from dataclasses import asdict, replace

import pytest
from click.testing import CliRunner

from tests.cli.conftest import make_run
from tests.tracking.synthetic import synthetic_search
from tkd_search.cli.retrain import command
from tkd_search.comparison.paired_statistics import Failure, Training, summarise
from tkd_search.comparison.retrain_front import all_outcomes, retrained_page
from tkd_search.errors import UserError

RECORD = synthetic_search()
MEMBER = RECORD.front[0]


def training(seed, accuracy):
    return Training(
        label=MEMBER.trial_id,
        seed=seed,
        val_accuracy=0.8,
        test_accuracy=accuracy,
        seconds_per_epoch=1.0,
        parameters=MEMBER.parameters,
        bytes=MEMBER.bytes,
    )


def failure(seed):
    return Failure(label=MEMBER.trial_id, seed=seed, failed="Diverged: NaN", parameters=1, bytes=MEMBER.bytes)


def page(*outcomes):
    (row,) = summarise(outcomes, base="")
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    return retrained_page(
        [(MEMBER, row)],
        RECORD.big_model,
        title="a",
        metric="accuracy",
        failures=failures,
        command="retrain a",
    )


def test_the_page_has_mean_deviation_and_retention_of_the_fresh_seeds():
    text = page(training(1000, 0.70), training(1001, 0.72))
    retention = 0.71 / RECORD.big_model.test_accuracy
    assert f"| {100 * MEMBER.test_accuracy:.2f} | 2 | 71.00 ± 1.41 | {retention:.3f} |" in text
    assert "Made by `retrain a`" in text


def test_failed_trainings_are_named_and_no_figure_includes_them():
    text = page(training(1000, 0.70), failure(1001))
    assert "| 1 | 70.00 | " in text
    assert "Failed and left out: " in text
    assert "Diverged: NaN" in text
    assert "| 0 | – | – |" in page(failure(1000))


def test_trainings_of_earlier_calls_stay_in_the_table(tmp_path):
    first, last = RECORD.front[0], RECORD.front[-1]
    for member, seed in ((last, 1001), (first, 1000), (last, 1000)):
        outcome = replace(training(seed, 0.7), label=member.trial_id)
        (tmp_path / f"{member.trial_id}-{seed}.json").write_text(json.dumps(asdict(outcome)))
    (tmp_path / "gone-1000.json").write_text("of a trial that has left the front")
    found = [(one.label, one.seed) for one in all_outcomes(tmp_path, RECORD)]
    assert found == [(first.trial_id, 1000), (last.trial_id, 1000), (last.trial_id, 1001)]


@pytest.mark.parametrize(("arguments", "words"), [(["t9999"], "t9999"), ([], "images")])
def test_wrong_input_is_refused_and_writes_nothing(tmp_path, monkeypatch, arguments, words):
    """A trial that is not on the front; a data set that is not the one of the search."""
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path / "runs" / "digits", RECORD, logged=False)
    (folder / "data.json").write_text('{"digest": "another"}')
    before = sorted(folder.rglob("*"))
    result = CliRunner().invoke(command, ["digits", *arguments])
    assert isinstance(result.exception, UserError)
    assert words in str(result.exception)
    assert sorted(folder.rglob("*")) == before
