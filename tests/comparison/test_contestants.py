"""Contestants: how the command line is read, and what is refused."""

import pytest

from tests.tracking.synthetic import synthetic_search, tell_all
from tkd_search.comparison.contestants import (
    check_equal_students,
    check_equal_trials,
    parse_contestants,
    retrained_config,
    search_config,
)
from tkd_search.comparison.fresh_trainings import fresh_seeds
from tkd_search.comparison.run_comparison import run_comparison
from tkd_search.config.experiment_file import load_config
from tkd_search.engine.progress import Silent
from tkd_search.errors import UserError
from tkd_search.tracking.tracker import Tracker

NAMED = "student.name=mobilenet_v2"
FIXED = [NAMED, "student.width=0.2", "student.format=int8", "data.train_limit=500"]


def test_methods_variants_and_ablations_in_order():
    found = parse_contestants(
        ["kd", "tkd"], ["bare:method.name=tkd;method.gamma=0"], ["k1:method.k=1;method.masks=1"]
    )
    assert [c.label for c in found] == ["kd", "tkd", "bare", "k1"]
    assert found[2].changes == {"method.name": "tkd", "method.gamma": 0}
    assert [c.winner_of for c in found] == [None, None, None, "tkd"]


@pytest.mark.parametrize(
    ("methods", "variants", "ablations", "words"),
    [
        (["kdd"], [], [], ["kdd", "dkd"]),
        (["kd"], ["kd:method.lam=1"], [], ["'kd' twice"]),
        (["kd"], [], ["k1:method.k=1"], ["no contestant tkd"]),
        (["kd"], ["no colon"], [], ["LABEL:key=value"]),
        (["kd"], ["../up:method.k=1"], [], ["LABEL:key=value"]),
        (["kd"], ["x:method.k"], [], ["method.k", "LABEL:key=value"]),
        (["kd"], ["a+b:method.k=1"], [], ["LABEL:key=value"]),
    ],
)
def test_wrong_contestants_are_refused(methods, variants, ablations, words):
    with pytest.raises(UserError) as refused:
        parse_contestants(methods, variants, ablations)
    assert all(word in str(refused.value) for word in words)


def test_a_search_has_its_method_the_budget_and_only_the_leaves_of_that_method():
    (kd,) = parse_contestants(["kd"])
    config = search_config(load_config(None, FIXED, name="c"), kd, 7)
    assert config.name == "c-kd"
    assert config.settings().search.trials == 7
    assert set(config.space.leaves) == {"method.lam", "method.tau", "training.lr"}


def test_a_search_has_the_leaves_of_its_method_where_the_experiment_has_another():
    (dkd,) = parse_contestants(["dkd"])
    given = [*FIXED, "method={name: tkd, dkd_beta: {float: [0.5, 8.0]}}", "training.lr=0.01"]
    assert set(search_config(load_config(None, given, name="c"), dkd, 7).space.leaves) == {"method.dkd_beta"}


def test_no_other_limit_makes_the_budgets_unequal():
    limits = ["search.max_hours=1", "search.max_epochs=50", "search.plateau=3"]
    search = (
        search_config(load_config(None, [*FIXED, *limits], name="c"), *parse_contestants(["kd"]), 7)
        .settings()
        .search
    )
    assert (search.trials, search.max_hours, search.max_epochs, search.plateau) == (7, None, None, None)


def test_a_searched_size_is_refused():
    (kd,) = parse_contestants(["kd"])
    with pytest.raises(UserError, match=r"student\.width"):
        search_config(load_config(None, [NAMED], name="c"), kd, 7)


@pytest.mark.parametrize(
    ("leaf", "proposed"),
    [
        ("student.args={dropout: {float: [0.1, 0.5]}}", "student.args.dropout=0.3"),
        ("student.width={float: [0.12345, 0.12346]}", "student.width=0.12345"),
        ("student.args={width: {int: [2, 16]}}", "student.args.width=9"),
        ("student.name={choice: [mobilenet_v2, mnasnet1_0]}", "student.name=mnasnet1_0"),
    ],
)
def test_the_proposed_size_is_valid_for_its_leaf(leaf, proposed):
    (kd,) = parse_contestants(["kd"])
    given = [*FIXED, "student.name=tests.models.nets:tiny"] if "width: {int" in leaf else FIXED
    with pytest.raises(UserError) as refused:
        search_config(load_config(None, [*given, leaf], name="c"), kd, 7)
    assert refused.value.hint.startswith(f"fix it, for instance --set {proposed}")


@pytest.mark.parametrize(
    "change", ["student.width=0.1", "student.name=resnet18", "student.args={dropout: 0.5}"]
)
def test_a_variant_with_another_student_is_refused(change):
    (other,) = parse_contestants([], [f"small:method.name=tkd;{change}"])
    with pytest.raises(UserError, match=r"small: student\.[\s\S]*equal in size"):
        search_config(load_config(None, FIXED, name="c"), other, 7)


def test_a_variant_may_repeat_the_common_size():
    (same,) = parse_contestants([], ["same:method.name=tkd;student.width=0.2"])
    assert search_config(load_config(None, FIXED, name="c"), same, 7).settings().student.width == 0.2


def test_variants_must_fix_a_searched_size_equally():
    config = load_config(None, [NAMED, "student.format=int8"], name="c")
    variants = parse_contestants([], [f"{label}:student.width={label}" for label in ("0.3", "0.30", "0.4")])
    first, equal, other = (search_config(config, variant, 7) for variant in variants)
    check_equal_students({"first": first, "equal": equal})
    with pytest.raises(UserError, match=r"other: student\.width"):
        check_equal_students({"first": first, "equal": equal, "other": other})


def test_a_wrong_change_names_its_key():
    (bad,) = parse_contestants([], ["x:method.gama=0"])
    with pytest.raises(UserError, match=r"did you mean method\.gamma"):
        search_config(load_config(None, FIXED, name="c"), bad, 7)


def test_a_winner_is_trained_again_at_its_point_on_a_fresh_subset():
    config = load_config(None, FIXED, name="c")
    tkd, k1 = parse_contestants(["tkd"], [], ["k1:method.k=1"])
    searched = search_config(config, tkd, 7)
    point = {"method.k": 5, "training.lr": 0.01}
    first, second = (retrained_config(config, tkd, searched, point, seed) for seed in (1000, 1001))
    assert (first.settings().method.k, first.settings().data.limit_seed) == (5, 1000)
    assert first.digest() != second.digest()
    assert not first.space.leaves
    ablated = retrained_config(config, k1, searched, point, 1000).settings()
    assert ablated.method.k == 1
    assert ablated.training == first.settings().training


def test_fresh_seeds_differ_from_the_search_and_fewer_are_the_first_of_more():
    config = load_config(None, FIXED)
    assert fresh_seeds(config, 5)[:3] == fresh_seeds(config, 3)
    assert config.settings().seed not in fresh_seeds(config, 100)


@pytest.mark.parametrize(
    ("change", "words"),
    [("method.k={int: [5, 9]}", "not searched"), ("student.width=0.5", "equal in size")],
)
def test_an_ablation_may_not_search_or_change_the_student(change, words):
    tkd, ablation = parse_contestants(["tkd"], [], [f"x:{change}"])
    config = load_config(None, FIXED, name="c")
    searched = search_config(config, tkd, 7)
    with pytest.raises(UserError, match=words):
        retrained_config(config, ablation, searched, {}, 1000)


def test_fewer_trials_than_a_contestant_has_are_refused():
    begun = {"kd": 8, "dkd": 0}
    check_equal_trials(begun, 8)
    with pytest.raises(UserError, match=r"--trials.*6, while the search of kd has 8"):
        check_equal_trials(begun, 6)


def test_trials_of_a_search_that_has_not_ended_count(tmp_path):
    config = load_config(None, [*FIXED, f"output={tmp_path}"], name="c")
    contestants = parse_contestants(["kd"])
    begun = search_config(config, contestants[0], 8)
    tracker = Tracker(begun.folder)
    tell_all(tracker, synthetic_search(8), begun.folder)
    tracker.close()
    (begun.folder / "config.yaml").write_text(begun.to_yaml())
    with pytest.raises(UserError, match=r"--trials.*6, while the search of kd has 8"):
        run_comparison(
            config,
            contestants,
            trials=6,
            seeds=1,
            base="kd",
            address=None,
            progress=Silent(),
            command="",
        )
