"""The EHVI sampler on problems with known answers."""

from dataclasses import replace

import numpy as np
import pytest

from tests.optimize.studies import BUDGET, SPACE, open_study, quality, run_trial, size_of
from tkd_search.errors import UserError
from tkd_search.optimize.pareto import CostScale, normalised_hypervolume
from tkd_search.optimize.proposer import Proposer, ProposerSettings
from tkd_search.optimize.pruners.never import Never
from tkd_search.optimize.samplers.ehvi import EHVISampler, EHVISettings
from tkd_search.optimize.samplers.surrogate import SurrogateFitter, _ended_range, usable_trials
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
                cost=size_of(config),
                curve={BUDGET: min(quality(config), 1.0)},
            )
        )
    return trials


def sampler(**settings):
    return EHVISampler(
        SPACE,
        levels=(),
        full_budget=BUDGET,
        scale=CostScale(2e6),
        classes=10,
        settings=EHVISettings(**{**SMALL, **settings}),
    )


def test_suggestions_are_in_the_space_and_repeatable():
    trials = whole_trials(20)
    first, second = sampler().suggest(trials, seed=5), sampler().suggest(trials, seed=5)
    assert SPACE.contains(first)
    assert first == second
    assert sampler().suggest(trials, seed=6) != first


def unknown_cost(config):
    """The cost of a student whose latency only a measurement tells."""
    return float("nan")


@pytest.mark.parametrize("cost_of", [size_of, unknown_cost])
def test_a_new_sampler_makes_the_same_suggestions_as_one_that_saw_the_search(cost_of):
    """What a sampler keeps between suggestions does not change them."""

    def build():
        return EHVISampler(
            SPACE,
            levels=(3,),
            full_budget=BUDGET,
            scale=CostScale(2e6),
            classes=10,
            cost_of=cost_of,
            settings=EHVISettings(**SMALL, refit_every=5, memory=12, builds=2),
        )

    def with_rung(trial):
        return replace(trial, curve={3: 0.9 * trial.curve[BUDGET], **trial.curve})

    old, trials = build(), [with_rung(trial) for trial in whole_trials(4)]
    for number, late in enumerate(map(with_rung, whole_trials(16, seed=1)), start=4):
        config = old.suggest(trials, seed=number)
        assert config == build().suggest(trials, seed=number)
        # Every third trial ends after those that follow it, and every fourth is stopped.
        state = "running" if number % 3 == 0 else "stopped" if number % 4 == 0 else "complete"
        score = min(quality(config), 1.0)
        curve = {3: 0.9 * score} if state == "stopped" else {3: 0.9 * score, BUDGET: score}
        if number % 3 == 1 and number > 4:
            trials[-1] = replace(trials[-1], state="complete", cost=late.cost, curve=late.curve)
        new = StudyTrial(number=number, storage_id=number, config=config, state=state)
        trials.append(new if state == "running" else replace(new, cost=size_of(config), curve=curve))


def test_trials_of_earlier_searches_are_in_the_model_and_not_on_the_front():
    """The best students of an earlier search are worth suggesting: this search does not have them."""
    earlier = [replace(t, number=t.number - 40) for t in whole_trials(40)]
    widths = [sampler(aimed=0.0).suggest(earlier, seed=i)["student.width"] for i in range(4)]
    assert min(widths) < 0.2  # the smallest size adds the most hypervolume
    assert sampler(aimed=0.0).suggest(earlier, 0) != sampler(aimed=0.0).suggest(whole_trials(40), 0)


def test_students_similar_to_refused_ones_are_rarely_suggested():
    """With a limit at a width of .3, trials above it end before their first epoch."""

    def outcome(trial):
        if trial.config["student.width"] > 0.3:
            return replace(trial, state="stopped", curve={})
        return trial

    trials = [outcome(trial) for trial in whole_trials(12)]
    for i in range(20):
        config = sampler().suggest(trials, seed=i)
        curve = {BUDGET: min(quality(config), 1.0)}
        new = replace(
            trials[0], number=12 + i, config=config, state="complete", cost=size_of(config), curve=curve
        )
        trials.append(outcome(new))
    assert sum(t.state == "stopped" for t in trials[12:]) <= 5


@pytest.mark.parametrize("sampler_name", ["ehvi", "tpe"])
def test_regions_where_trials_fail_are_avoided(sampler_name):
    """Where large learning rates diverge, few of the later trials have one."""
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


@pytest.mark.parametrize("known_cost", [size_of, unknown_cost])
def test_students_that_cannot_be_built_are_not_suggested(known_cost):
    def fails_above(config):
        if config["student.width"] > 0.2:
            raise UserError("student.width", "too wide", "less")
        return known_cost(config)

    made = EHVISampler(
        SPACE,
        levels=(),
        full_budget=BUDGET,
        classes=10,
        cost_of=fails_above,
        settings=EHVISettings(**SMALL),
    )
    trials = [t for t in whole_trials(40) if t.config["student.width"] <= 0.2]
    assert all(made.suggest(trials, seed=i)["student.width"] <= 0.2 for i in range(20))


def test_a_space_without_leaves_gets_no_suggestion():
    empty = EHVISampler(Space({}, ()), levels=(), full_budget=BUDGET)
    same = [replace(t, config={}) for t in whole_trials(8)]
    assert empty.suggest(same, seed=0) is None


def test_earlier_trials_with_other_rungs_can_be_used():
    earlier = [replace(t, number=t.number - 8) for t in whole_trials(8)]
    running = StudyTrial(number=0, storage_id=0, config=earlier[0].config, cost=50_000, curve={3: 0.5})
    made = EHVISampler(SPACE, levels=(3,), full_budget=BUDGET, classes=10, settings=EHVISettings(**SMALL))
    assert SPACE.contains(made.suggest([*earlier, running], seed=0))


def test_too_few_usable_first_trials_are_not_fitted_alone():
    """Of the first ten, one has a record at this search's rung: one error."""
    whole = whole_trials(10)
    stopped = replace(whole[3], state="stopped", curve={3: 0.4})
    failed = [replace(t, state="failed", curve={}, cost=None) for t in whole[4:]]
    later = [
        replace(t, number=t.number + 10, curve={3: 0.8 * t.curve[BUDGET], **t.curve})
        for t in whole_trials(6, seed=1)
    ]
    trials = [*whole[:3], stopped, *failed, *later]
    fitter = SurrogateFitter(Cube(SPACE), (3,), BUDGET, memory=200, refit_every=10)
    extrapolation = fitter.extrapolation(trials)
    usable = usable_trials(trials, extrapolation)
    fitted = fitter._hyperparameters(trials, usable, extrapolation)
    expected = fitter._fit(usable, extrapolation)
    assert len(usable) == 10
    np.testing.assert_array_equal(fitted.error.vector, expected.error.vector)


def test_the_trials_of_a_fit_change_in_steps():
    """Also where later trials end first, and where the history is capped."""
    numbers = [*range(-3, 1), 7, *range(20, 60)]
    ranges = [_ended_range(numbers[: i + 1], [], 10) for i in range(10, len(numbers))]
    assert len(set(ranges)) == 5
    assert _ended_range(list(range(48)), [31, 44], 10) == (0, 30)
    assert _ended_range(list(range(-5, 12)), [], 10) == (-5, 10)


def test_with_equal_sizes_only_accuracy_decides():
    trials = [replace(t, cost=50_000) for t in whole_trials(30)]
    rates = [sampler().suggest(trials, seed=i)["training.lr"] for i in range(8)]
    assert np.median(np.abs(np.array(rates) - 0.01)) < 0.01


def test_three_trials_give_no_suggestion():
    assert sampler().suggest(whole_trials(3), seed=0) is None


def test_it_suggests_the_best_learning_rate():
    trials = whole_trials(30)
    rates = [sampler().suggest(trials, seed=i)["training.lr"] for i in range(8)]
    assert np.median(np.abs(np.array(rates) - 0.01)) < 0.01


def test_running_trials_are_not_suggested_again():
    trials = whole_trials(25)
    suggested = []
    for i in range(6):
        config = sampler().suggest(trials, seed=1)
        suggested.append(tuple(config.values()))
        trials.append(StudyTrial(number=25 + i, storage_id=25 + i, config=config))
    assert len(set(suggested)) == 6


def test_a_model_with_fewer_trials_than_the_history_suggests():
    trials = whole_trials(60)
    small = sampler(memory=20)
    assert SPACE.contains(small.suggest(trials, seed=0))


def test_without_a_big_model_the_largest_student_scales_the_sizes():
    plain = EHVISampler(SPACE, levels=(), full_budget=BUDGET, settings=EHVISettings(**SMALL))
    assert SPACE.contains(plain.suggest(whole_trials(20), seed=0))


def test_exact_sizes_replace_predicted_ones():
    """A step in bytes that a model cannot predict: all students but the smallest are as large as F."""
    built = []

    def steep(config):
        built.append(config["student.width"])
        return 20_000 if config["student.width"] < 0.2 else 2_000_000

    trials = [t for t in whole_trials(40) if t.config["student.width"] > 0.25]
    exact = EHVISampler(
        SPACE,
        levels=(),
        full_budget=BUDGET,
        scale=CostScale(2e6),
        classes=10,
        cost_of=steep,
        settings=EHVISettings(**SMALL, aimed=0.0),
    )
    widths = [exact.suggest(trials, seed=i)["student.width"] for i in range(5)]
    assert sum(width < 0.2 for width in widths) >= 3
    assert len(built) == len(set(built))  # each student is built once
    assert len(built) <= 5 * 16  # few of the candidates: building takes time


def test_target_sizes_spread_the_suggestions():
    """Also where all gain is at one end of the sizes."""
    trials = whole_trials(60)
    sizes = [size_of(sampler(aimed=1.0).suggest(trials, seed=i)) for i in range(12)]
    assert np.log10(max(sizes)) - np.log10(min(sizes)) > 0.5


def test_better_than_random_on_the_same_number_of_trials():
    def final(name):
        study = open_study(
            pruner=Never(),
            proposer=ProposerSettings(sampler=name, options=SMALL if name == "ehvi" else {}, startup=8),
            scale=CostScale(2e6),
            classes=10,
        )
        for _ in range(30):
            run_trial(study)
        return normalised_hypervolume(
            [t.cost for t in study.trials()],
            [t.accuracy for t in study.trials()],
            scale=CostScale(2e6),
            classes=10,
        )

    assert final("ehvi") > final("random")


def proposals(name, trials, numbers, cost_of=None, **options):
    """Return a sampler's proposal for each of these trials after the same history."""
    proposer = Proposer(
        SPACE,
        ProposerSettings(sampler=name, options=options, startup=6),
        seed=3,
        levels=(),
        full_budget=BUDGET,
        scale=CostScale(2e6),
        classes=10,
        cost_of=cost_of,
    )
    return [proposer.propose(number, trials).config for number in numbers]


def test_with_enough_trials_a_share_of_the_suggestions_is_left_to_tpe():
    trials, numbers = whole_trials(40), range(40, 64)
    own = proposals("ehvi", trials, numbers, **SMALL, tpe=0.0)
    mixed = proposals("ehvi", trials, numbers, **SMALL, tpe=0.5)
    tpe = proposals("tpe", trials, numbers)
    assert proposals("ehvi", trials, numbers, **SMALL, tpe=1.0) == tpe
    assert all(made in (a, b) for made, a, b in zip(mixed, own, tpe, strict=True))
    assert 6 <= sum(made == other for made, other in zip(mixed, tpe, strict=True)) <= 18
    # The trial's number alone decides, so a resumed search leaves the same ones.
    assert proposals("ehvi", trials, numbers[5:], **SMALL, tpe=0.5) == mixed[5:]
    few = whole_trials(20)
    assert proposals("ehvi", few, [20, 21], **SMALL, tpe=1.0) == proposals(
        "ehvi", few, [20, 21], **SMALL, tpe=0.0
    )


def test_a_suggestion_of_tpe_that_cannot_be_built_is_replaced():
    def fails_above(config):
        if config["student.width"] > 0.2:
            raise UserError("student.width", "too wide", "less")
        return size_of(config)

    trials = [t for t in whole_trials(120) if t.config["student.width"] <= 0.2]
    made = proposals("ehvi", trials, range(120, 150), cost_of=fails_above, **SMALL, tpe=1.0)
    assert max(config["student.width"] for config in made) <= 0.2
    assert max(c["student.width"] for c in proposals("tpe", trials, range(120, 150))) > 0.2


def test_a_suggestion_of_tpe_near_refused_students_is_replaced():
    def with_limit(trial):
        if trial.config["student.width"] > 0.2:
            return replace(trial, state="stopped", curve={}, cost=None)
        return trial

    trials = [with_limit(trial) for trial in whole_trials(60)]
    made, tpe = (
        [c["student.width"] for c in proposals(name, trials, range(60, 90), **options)]
        for name, options in (("ehvi", {**SMALL, "tpe": 1.0}), ("tpe", {}))
    )
    assert sum(width > 0.2 for width in tpe) >= 5
    assert sum(width > 0.2 for width in made) <= 1
    assert sum(a == b for a, b in zip(made, tpe, strict=True)) >= 5  # suggestions within the limit are TPE's


def test_a_tried_configuration_is_not_accepted_from_tpe():
    space = Space({"a": IntDistribution(0, 8), "b": IntDistribution(0, 7)})
    made = EHVISampler(space, levels=(), full_budget=BUDGET, settings=EHVISettings(**SMALL))
    (tried,) = [replace(trial, config={"a": 3, "b": 4}) for trial in whole_trials(1)]
    assert not made.accepts({"a": 3, "b": 4}, [tried])
    assert made.accepts({"a": 3, "b": 5}, [tried])
    assert made.accepts({"a": 3, "b": 4}, [replace(tried, number=-1)])  # of an earlier search


@pytest.mark.parametrize("options", [{"builds": 0}, {"refit_every": -1}, {"aimed": 2.0}, {"tpe": -0.1}])
def test_sizes_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"ehvi: .*{next(iter(options.values()))}"):
        EHVISettings(**options)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="ehvi"):
        open_study(proposer=ProposerSettings(sampler="ehvi", options={"size": 3}))
