"""The efficiency benchmark in small: 6 seeds, 100 whole trials' worth of epochs, an invented recording.

With 2 seeds the outcome hung on the machine: rounding in a fit changes which configurations are tried.
"""

import json

import numpy as np
import pytest

from benchmarks import search_efficiency
from benchmarks.search_efficiency import Summary, compare, epochs_ratio
from benchmarks.simulator.replay import Replay
from benchmarks.simulator.surrogate import Surrogate


def whole(test):
    """Mark a test of the fixture below, which replays 24 searches."""
    return pytest.mark.slow(pytest.mark.timeout(1200)(test))


@pytest.fixture(scope="module")
def summaries(synthetic):
    names = ["random", "tpe", "tpe_asha", "ours"]
    return compare(synthetic, Surrogate(synthetic, trees=30), names=names, seeds=6, trials=100, workers=2)


@whole
def test_ours_needs_fewer_epochs_than_full_budget_tpe(summaries):
    assert epochs_ratio(summaries["ours"], summaries["tpe"]) < 0.85


@whole
def test_ours_ends_no_lower(summaries):
    assert summaries["ours"].final >= summaries["tpe"].final - 0.005
    assert summaries["ours"].final > summaries["random"].final


@whole
def test_halving_on_accuracy_alone_starves_the_front(summaries):
    """Why there is a rule of our own."""
    assert summaries["tpe_asha"].regret_stops > summaries["ours"].regret_stops
    assert summaries["tpe_asha"].final < summaries["ours"].final


@whole
def test_stopping_pays_for_more_trials_and_spares_the_front(summaries):
    """What the rule bounds is the loss; how many trials that pays for is up to the curves."""
    ours, tpe = summaries["ours"], summaries["tpe"]
    for mine, theirs in zip(ours.replays, tpe.replays, strict=True):
        assert mine.trials > theirs.trials
        assert mine.epochs_spent == pytest.approx(theirs.epochs_spent, rel=0.1)
    assert ours.regret_stops <= 0.05


def test_command_prints_and_writes(recording, tmp_path, capsys):
    out, picture = tmp_path / "figures.json", tmp_path / "figure.png"
    arguments = ["--curves", str(recording), "--json", str(out), "--plot", str(picture)]
    small = ["--seeds", "2", "--trials", "20", "--workers", "1", "--searchers", "random", "tpe", "ours"]
    search_efficiency.main([*arguments, *small])
    figures = json.loads(out.read_text())
    assert {"epochs_ratio_to_tpe", "final_hypervolume", "regret_stops", "seeds"} <= set(figures)
    assert set(figures["final_hypervolume"]) == {"random", "tpe", "ours"}
    assert figures["seeds"] == 2
    assert picture.stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "rank correlation" in printed
    assert "ours reaches" in printed


def test_exact_table_mode_runs(recording, capsys):
    small = ["--seeds", "1", "--trials", "10", "--workers", "1", "--searchers", "random", "ours"]
    search_efficiency.main(["--curves", str(recording), "--exact-table", *small])
    assert "recorded rows alone" in capsys.readouterr().out


def test_missing_recording_is_one_message(tmp_path):
    with pytest.raises(SystemExit, match="no recording"):
        search_efficiency.main(["--curves", str(tmp_path / "none")])


def made_up(name, volumes):
    nothing = Replay(
        epochs=np.array([1]),
        hypervolume=np.array([0.0]),
        epochs_spent=1,
        trials=1,
        stopped=0,
        regret_stops=0.0,
        lost_hypervolume=0.0,
        ask_seconds=(),
        decide_seconds=(),
    )
    return Summary(name, np.array(volumes), (nothing,))


def test_ratio_of_epochs():
    tpe = made_up("tpe", [[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.6]])
    ours = made_up("ours", [[0.3, 0.5, 0.6, 0.7], [0.3, 0.5, 0.6, 0.7]])
    never = made_up("ours", [[0.1, 0.1, 0.1, 0.1]])
    assert epochs_ratio(ours, tpe) == 0.5
    assert epochs_ratio(never, tpe) == float("inf")
