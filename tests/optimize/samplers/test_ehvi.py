"""The EHVI sampler on problems whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from tests.optimize.test_study import BUDGET, SPACE, open_study, quality, run_trial, size_of
from tkd_search.errors import UserError
from tkd_search.optimize.pareto import normalised_hypervolume
from tkd_search.optimize.proposer import Proposer, ProposerSettings
from tkd_search.optimize.pruners.never import Never
from tkd_search.optimize.samplers.ehvi import EHVISampler, EHVISettings
from tkd_search.optimize.samplers.surrogate import SurrogateFitter, _settled, taught_by
from tkd_search.optimize.space import IntDistribution, Space
from tkd_search.optimize.space_encoding import Cube
from tkd_search.optimize.study_trial import StudyTrial

SMALL = {"random": 100, "local": 200, "polish": 100}


def whole_trials(count, seed=0):
    rng = np.random.default_rng(seed)
    trials = []
    for i in range(count):
        config = SPACE.at(rng.random(len(SPACE.leaves)).tolist())
        trials.append(
            StudyTrial(
                number=i,
                storage_id=i,
                config=config,
                state="complete",
                bytes=size_of(config),
                curve={BUDGET: min(quality(config), 1.0)},
            )
        )
    return trials


def sampler(**settings):
    return EHVISampler(
        SPACE,
        levels=(),
        full_budget=BUDGET,
        big_model_bytes=2e6,
        classes=10,
        settings=EHVISettings(**{**SMALL, **settings}),
    )


def test_suggestions_are_in_the_space_and_repeatable():
    trials = whole_trials(20)
    first, second = sampler().suggest(trials, seed=5), sampler().suggest(trials, seed=5)
    assert SPACE.contains(first)
    assert first == second
    assert sampler().suggest(trials, seed=6) != first


def test_what_is_kept_between_suggestions_changes_nothing():
    """A sampler that saw the search grow and one that is new, as after a restart, agree at every trial."""

    def build():
        return EHVISampler(
            SPACE,
            levels=(3,),
            full_budget=BUDGET,
            big_model_bytes=2e6,
            classes=10,
            size_of=size_of,
            settings=EHVISettings(**SMALL, refit_every=5, memory=12, builds=2),
        )

    def with_rung(trial):
        return replace(trial, curve={3: 0.9 * trial.curve[BUDGET], **trial.curve})

    old, trials = build(), [with_rung(trial) for trial in whole_trials(4)]
    for number, late in enumerate(map(with_rung, whole_trials(16, seed=1)), start=4):
        config = old.suggest(trials, seed=number)
        assert config == build().suggest(trials, seed=number)
        # Every third trial is overtaken by those after it, and every fourth is stopped.
        state = "running" if number % 3 == 0 else "stopped" if number % 4 == 0 else "complete"
        score = min(quality(config), 1.0)
        curve = {3: 0.9 * score} if state == "stopped" else {3: 0.9 * score, BUDGET: score}
        if number % 3 == 1 and number > 4:
            trials[-1] = replace(trials[-1], state="complete", bytes=late.bytes, curve=late.curve)
        asked = StudyTrial(number=number, storage_id=number, config=config, state=state)
        trials.append(asked if state == "running" else replace(asked, bytes=size_of(config), curve=curve))


def test_earlier_searches_teach_but_their_front_is_not_this_ones():
    """What an earlier search found best is worth finding again: its students are not in this search."""
    earlier = [replace(t, number=t.number - 40) for t in whole_trials(40)]
    asked = [sampler(aimed=0.0).suggest(earlier, seed=i)["student.width"] for i in range(4)]
    assert min(asked) < 0.2  # hypervolume is gained fastest at the smallest size, as by a first trial
    assert sampler(aimed=0.0).suggest(earlier, 0) != sampler(aimed=0.0).suggest(whole_trials(40), 0)


def test_students_near_refused_ones_are_hardly_asked_for():
    """A limit (of latency, say) at a width of .3: beyond it trials end before their first epoch."""

    def outcome(trial):
        if trial.config["student.width"] > 0.3:
            return replace(trial, state="stopped", curve={})
        return trial

    trials = [outcome(trial) for trial in whole_trials(12)]
    for i in range(20):
        config = sampler().suggest(trials, seed=i)
        curve = {BUDGET: min(quality(config), 1.0)}
        new = replace(
            trials[0], number=12 + i, config=config, state="complete", bytes=size_of(config), curve=curve
        )
        trials.append(outcome(new))
    assert sum(t.state == "stopped" for t in trials[12:]) <= 5


@pytest.mark.parametrize("sampler_name", ["ehvi", "tpe"])
def test_failing_regions_are_left(sampler_name):
    """What diverges at large learning rates takes few of the trials once that is known."""
    study = open_study(pruner=Never(), proposer=ProposerSettings(sampler=sampler_name), seed=1)
    failed = []
    for _ in range(40):
        suggestion = study.ask()
        if suggestion.config["training.lr"] > 8e-3:
            study.fail(suggestion.trial_id, "the loss is not finite", size_of(suggestion.config))
            failed.append(suggestion.number)
        else:
            run_trial(study, suggestion)
    late = [number for number in failed if number >= 20]
    assert len(late) < 10, failed


def test_students_that_cannot_be_built_are_not_asked_for():
    def fails_above(config):
        if config["student.width"] > 0.2:
            raise UserError("student.width", "too wide", "less")
        return size_of(config)

    made = EHVISampler(
        SPACE,
        levels=(),
        full_budget=BUDGET,
        classes=10,
        size_of=fails_above,
        settings=EHVISettings(**SMALL),
    )
    trials = [t for t in whole_trials(40) if t.config["student.width"] <= 0.2]
    assert all(made.suggest(trials, seed=i)["student.width"] <= 0.2 for i in range(20))


def test_a_space_without_leaves_is_left_to_the_design():
    nothing = EHVISampler(Space({}, ()), levels=(), full_budget=BUDGET)
    same = [replace(t, config={}) for t in whole_trials(8)]
    assert nothing.suggest(same, seed=0) is None


def test_earlier_trials_without_this_searchs_rungs_teach_what_they_can():
    earlier = [replace(t, number=t.number - 8) for t in whole_trials(8)]
    running = StudyTrial(number=0, storage_id=0, config=earlier[0].config, bytes=50_000, curve={3: 0.5})
    made = EHVISampler(SPACE, levels=(3,), full_budget=BUDGET, classes=10, settings=EHVISettings(**SMALL))
    assert SPACE.contains(made.suggest([*earlier, running], seed=0))


def test_first_trials_that_teach_too_little_by_themselves_are_not_fitted_to_alone():
    """Of ten, three ended without this search's rung and one was stopped at it: alone they tell one error."""
    whole = whole_trials(10)
    stopped = replace(whole[3], state="stopped", curve={3: 0.4})
    failed = [replace(t, state="failed", curve={}, bytes=None) for t in whole[4:]]
    later = [
        replace(t, number=t.number + 10, curve={3: 0.8 * t.curve[BUDGET], **t.curve})
        for t in whole_trials(6, seed=1)
    ]
    trials = [*whole[:3], stopped, *failed, *later]
    fitter = SurrogateFitter(Cube(SPACE), (3,), BUDGET, memory=200, refit_every=10)
    lessons = fitter.lessons(trials)
    taught = taught_by(trials, lessons)
    fitted, wanted = fitter._fitted_to(trials, taught, lessons), fitter._fit(taught, lessons)
    assert len(taught) == 10
    np.testing.assert_array_equal(fitted.error.vector, wanted.error.vector)


def test_hyperparameters_are_fitted_now_and_then():
    """While trials overtake each other and the history slides, the same trials are fitted to for a while."""
    numbers = [*range(-3, 1), 7, *range(20, 60)]
    ranges = [_settled(numbers[: i + 1], [], 10) for i in range(10, len(numbers))]
    assert len(set(ranges)) == 5
    assert _settled(list(range(48)), [31, 44], 10) == (0, 30)
    assert _settled(list(range(-5, 12)), [], 10) == (-5, 10)


def test_one_size_is_searched_for_accuracy_alone():
    trials = [replace(t, bytes=50_000) for t in whole_trials(30)]
    rates = [sampler().suggest(trials, seed=i)["training.lr"] for i in range(8)]
    assert np.median(np.abs(np.array(rates) - 0.01)) < 0.01


def test_too_little_is_known_at_first():
    assert sampler().suggest(whole_trials(3), seed=0) is None


def test_it_finds_the_learning_rate_that_pays():
    trials = whole_trials(30)
    rates = [sampler().suggest(trials, seed=i)["training.lr"] for i in range(8)]
    assert np.median(np.abs(np.array(rates) - 0.01)) < 0.01


def test_running_trials_are_not_suggested_again():
    trials = whole_trials(25)
    asked = []
    for i in range(6):
        config = sampler().suggest(trials, seed=1)
        asked.append(tuple(config.values()))
        trials.append(StudyTrial(number=25 + i, storage_id=25 + i, config=config))
    assert len(set(asked)) == 6


def test_memory_bounds_the_model():
    trials = whole_trials(60)
    small = sampler(memory=20)
    assert SPACE.contains(small.suggest(trials, seed=0))


def test_without_a_big_model_the_largest_student_is_the_measure():
    plain = EHVISampler(SPACE, levels=(), full_budget=BUDGET, settings=EHVISettings(**SMALL))
    assert SPACE.contains(plain.suggest(whole_trials(20), seed=0))


def test_exact_sizes_replace_the_model_of_bytes():
    """A step in bytes that no model sees: all students but the smallest are as large as F."""
    asked = []

    def steep(config):
        asked.append(config["student.width"])
        return 20_000 if config["student.width"] < 0.2 else 2_000_000

    trials = [t for t in whole_trials(40) if t.config["student.width"] > 0.25]
    exact = EHVISampler(
        SPACE,
        levels=(),
        full_budget=BUDGET,
        big_model_bytes=2e6,
        classes=10,
        size_of=steep,
        settings=EHVISettings(**SMALL, aimed=0.0),
    )
    widths = [exact.suggest(trials, seed=i)["student.width"] for i in range(5)]
    assert sum(width < 0.2 for width in widths) >= 3
    assert len(asked) == len(set(asked))  # each student is built once
    assert len(asked) <= 5 * 16  # few of the candidates: building takes time


def test_some_suggestions_aim_at_any_size():
    """Where all gain is at one end, the share that aims at a size still asks for the others."""
    trials = whole_trials(60)
    sizes = [size_of(sampler(aimed=1.0).suggest(trials, seed=i)) for i in range(12)]
    assert np.log10(max(sizes)) - np.log10(min(sizes)) > 0.5


def test_better_than_random_on_the_same_number_of_trials():
    def final(name):
        study = open_study(
            pruner=Never(),
            proposer=ProposerSettings(sampler=name, options=SMALL if name == "ehvi" else {}, startup=8),
            big_model_bytes=2e6,
            classes=10,
        )
        for _ in range(30):
            run_trial(study)
        return normalised_hypervolume(
            [t.bytes for t in study.trials()],
            [t.accuracy for t in study.trials()],
            big_model_bytes=2e6,
            classes=10,
        )

    assert final("ehvi") > final("random")


def proposals(name, trials, numbers, size_of=None, **options):
    """What a sampler proposes for each of these trials after the same history."""
    proposer = Proposer(
        SPACE,
        ProposerSettings(sampler=name, options=options, startup=6),
        seed=3,
        levels=(),
        full_budget=BUDGET,
        big_model_bytes=2e6,
        classes=10,
        size_of=size_of,
    )
    return [proposer.propose(number, trials).config for number in numbers]


def test_a_share_of_the_suggestions_is_left_to_tpe_once_enough_is_known():
    trials, numbers = whole_trials(40), range(40, 64)
    own = proposals("ehvi", trials, numbers, **SMALL, tpe=0.0)
    mixed = proposals("ehvi", trials, numbers, **SMALL, tpe=0.5)
    tpe = proposals("tpe", trials, numbers)
    assert proposals("ehvi", trials, numbers, **SMALL, tpe=1.0) == tpe
    assert all(made in (a, b) for made, a, b in zip(mixed, own, tpe, strict=True))
    assert 6 <= sum(made == other for made, other in zip(mixed, tpe, strict=True)) <= 18
    # Which ones are left is a matter of the trial's number alone, so a resumed search leaves the same.
    assert proposals("ehvi", trials, numbers[5:], **SMALL, tpe=0.5) == mixed[5:]
    few = whole_trials(20)
    assert proposals("ehvi", few, [20, 21], **SMALL, tpe=1.0) == proposals(
        "ehvi", few, [20, 21], **SMALL, tpe=0.0
    )


def test_what_tpe_wants_and_cannot_be_built_is_left_to_the_model():
    def fails_above(config):
        if config["student.width"] > 0.2:
            raise UserError("student.width", "too wide", "less")
        return size_of(config)

    trials = [t for t in whole_trials(120) if t.config["student.width"] <= 0.2]
    made = proposals("ehvi", trials, range(120, 150), size_of=fails_above, **SMALL, tpe=1.0)
    assert max(config["student.width"] for config in made) <= 0.2
    assert max(c["student.width"] for c in proposals("tpe", trials, range(120, 150))) > 0.2


def test_what_tpe_wants_and_a_limit_refused_nearby_is_left_to_the_model():
    def with_limit(trial):
        if trial.config["student.width"] > 0.2:
            return replace(trial, state="stopped", curve={}, bytes=None)
        return trial

    trials = [with_limit(trial) for trial in whole_trials(60)]
    made, tpe = (
        [c["student.width"] for c in proposals(name, trials, range(60, 90), **options)]
        for name, options in (("ehvi", {**SMALL, "tpe": 1.0}), ("tpe", {}))
    )
    assert sum(width > 0.2 for width in tpe) >= 5
    assert sum(width > 0.2 for width in made) <= 1
    assert sum(a == b for a, b in zip(made, tpe, strict=True)) >= 5  # what is within it is TPE's still


def test_tpe_does_not_repeat_what_was_tried():
    space = Space({"a": IntDistribution(0, 8), "b": IntDistribution(0, 7)})
    made = EHVISampler(space, levels=(), full_budget=BUDGET, settings=EHVISettings(**SMALL))
    (tried,) = [replace(trial, config={"a": 3, "b": 4}) for trial in whole_trials(1)]
    assert not made.would_take({"a": 3, "b": 4}, [tried])
    assert made.would_take({"a": 3, "b": 5}, [tried])
    assert made.would_take({"a": 3, "b": 4}, [replace(tried, number=-1)])  # an earlier search's


@pytest.mark.parametrize("options", [{"builds": 0}, {"refit_every": -1}, {"aimed": 2.0}, {"tpe": -0.1}])
def test_sizes_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"ehvi: .*{next(iter(options.values()))}"):
        EHVISettings(**options)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="ehvi"):
        open_study(proposer=ProposerSettings(sampler="ehvi", options={"size": 3}))
