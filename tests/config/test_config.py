"""Experiment files: what is refused with which error, and the settings at a point of the space."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from tkd_search.config.experiment_file import (
    BUDGET_KEYS,
    CONFIG_FOLDER,
    differences,
    load_config,
    parse_config,
    with_overrides,
)
from tkd_search.config.resolve import left_to_sampler
from tkd_search.config.tree import override
from tkd_search.config.yaml_text import yaml_text
from tkd_search.errors import UserError
from tkd_search.optimize.space import Choice, Condition, FloatDistribution


def minimal(**sections: object) -> dict[str, object]:
    return {"name": "test", **sections}


@pytest.mark.parametrize("file", sorted(CONFIG_FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_configuration_is_valid_and_has_a_header(file):
    config = load_config(file)
    assert config.space.leaves
    assert file.read_text().startswith("# ")
    assert f"configs/{file.name}" in file.read_text() or file.stem == "digits"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("method.kk=3", ["method.kk", "unknown key", "method.k"]),
        ("methd.k=3", ["methd", "did you mean method"]),
        ("method.k=0", ["method.k", "found 0", "≥ 1"]),
        ("method.k=abc", ["method.k", "'abc'", "whole number"]),
        ("method.k=true", ["method.k", "True", "whole number"]),
        ("method.lam=2", ["method.lam", "found 2", "≤ 1"]),
        ("method.lam={float: [0.5, 1.5]}", ["method.lam", "1.5", "≤ 1"]),
        ("student.width={float: [2, 1]}", ["student.width", "low 2 is above high 1"]),
        ("student.width={float: [0, 1], log: true}", ["student.width", "log scale"]),
        ("student.width={float: [1], lg: true}", ["student.width", "lg"]),
        ("method.activation=relux", ["method.activation", "relux", "swish"]),
        ("method.activation={choice: [swish, relux]}", ["method.activation", "relux"]),
        ("search.learning=foo", ["search.learning: found 'foo'", "extrapolated | highest_rung | full"]),
        ("big_model.stem=tiny", ["big_model.stem: found 'tiny'", "auto | small | original"]),
        ("student.stem=tiny", ["student.stem: found 'tiny'", "auto | small | original"]),
        ("method.k={float: [1, 3]}", ["method.k", "int"]),
        ("data.name={choice: [digits]}", ["data.name", "not searched"]),
        ("seed={int: [0, 3]}", ["seed", "not searched"]),
        ("method=3", ["method", "mapping"]),
        ("name=../x", ["name", "../x"]),
        ("method.k", ["--set", "key.path=value"]),
        ("search.enqueue=[{method.zz: 1}]", ["search.enqueue.0.method.zz", "unknown"]),
        ("resources.workers_per_trial=64", ["training.batch_size", "64 workers"]),
        ("storage=ftp://host", ["storage", "ftp://host", "s3://"]),
        ("training.epochs=[1", ["--set training.epochs", "YAML"]),
        ("search.max_latency=5 parsecs", ["search.max_latency", "'5 parsecs'", "5ms", "null"]),
        ("search.max_latency=0ms", ["search.max_latency", "'0ms'", "above 0"]),
        ("search.max_latency=.inf", ["search.max_latency", "inf", "above 0"]),
        ("search.max_latency=true", ["search.max_latency", "True"]),
        ("search.max_latency={float: [1, 5]}", ["search.max_latency", "not searched"]),
        ("data.mean=[0.5]", ["data.std: found null", "mean is set"]),
        ("data.std=[0.5]", ["data.mean: found null", "std is set"]),
    ],
)
def test_errors_name_path_value_and_what_is_allowed(override, words):
    with pytest.raises(UserError) as caught:
        load_config(None, [override])
    message = str(caught.value)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in message


def test_the_error_for_a_missing_file_names_the_nearest():
    with pytest.raises(UserError, match=r"configs/digits\.yaml"):
        load_config("configs/digit.yaml")


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert load_config(None, ["training.lr=1e-3"]).settings().training.lr == 1e-3
    chosen = load_config(None, ["training.lr={choice: [1e-3, 3e-3]}", "search.enqueue=[{training.lr: 3e-3}]"])
    assert chosen.space.leaves["training.lr"].options == (1e-3, 3e-3)
    assert chosen.enqueued() == ({"training.lr": 3e-3},)
    assert parse_config(yaml.safe_load(chosen.to_yaml())) == chosen


@pytest.mark.parametrize("method", ["kd", "dkd", "dist", "hint", "at", "sp"])
def test_methods_with_soft_targets_can_search_their_settings(method):
    given = [f"method.name={method}", "method.lam={float: [0.3, 0.5]}", "method.tau={float: [1, 4]}"]
    assert {"method.lam", "method.tau"} <= set(load_config(None, given).space.leaves)


def test_enqueued_values_must_be_legal():
    with pytest.raises(UserError, match=r"search\.enqueue\.0\.method\.k"):
        load_config(None, ["search.enqueue=[{method.k: many}]"])


def test_an_empty_file_name_is_refused():
    with pytest.raises(UserError, match="--config"):
        load_config("")


def test_a_searchable_leaf_can_be_a_distribution_and_a_point_sets_it():
    config = parse_config(
        minimal(
            student={
                "name": {"choice": ["mobilenet_v2", "resnet18"]},
                "args": {
                    "depth": {"int": [1, 3]},
                    "ratios": {"layer1": {"float": [0.1, 0.5]}, "b": 0.3},
                },
            },
            training={"lr": {"float": [1e-4, 1e-2], "log": True}},
        )
    )
    assert config.space.leaves["training.lr"] == FloatDistribution(1e-4, 1e-2, True)
    assert config.space.leaves["student.name"] == Choice(("mobilenet_v2", "resnet18"))
    settings = config.settings(
        {
            "student.name": "resnet18",
            "training.lr": 0.003,
            "student.args.depth": 2,
            "student.args.ratios.layer1": 0.2,
        }
    )
    assert (settings.student.name, settings.training.lr) == ("resnet18", 0.003)
    assert settings.student.args == {"depth": 2, "ratios": {"layer1": 0.2, "b": 0.3}}


CUT_BY_LAYER = {"ratios": {"layer3": 0.8, "layer4": {"float": [0.2, 0.5]}}}
ENQUEUED = {"enqueue": [{"student.ratios.layer4": 0.3}]}


def test_the_ratios_of_a_cut_are_searched_only_where_the_student_is_cut():
    student = {"name": {"choice": ["cut", "mobilenet_v2"]}, **CUT_BY_LAYER}
    config = parse_config(minimal(student=student, search=ENQUEUED))
    assert config.space.conditions == (Condition("student.ratios.layer4", "student.name", ("cut",)),)
    cut = config.settings({"student.name": "cut", "student.ratios.layer4": 0.3}).student
    assert cut.ratios == {"layer3": 0.8, "layer4": 0.3}


@pytest.mark.parametrize("written", ["file", "command line"])
def test_a_layer_of_a_ratio_may_have_dots_in_its_name(written):
    ratio = {"float": [0.1, 1.0]}
    if written == "file":
        config = parse_config(minimal(student={"name": "cut", "ratios": {"features.3": ratio}}))
    else:
        tree = minimal(student={"name": "cut"})
        override(tree, f"student.ratios.features.3={ratio}")
        config = parse_config(tree)
    assert config.settings({"student.ratios.features.3": 0.3}).student.ratios == {"features.3": 0.3}


def test_settings_of_no_method_in_the_choice_are_not_searched():
    method = {"name": {"choice": ["ce", "kd"]}, "tau": {"float": [1, 4]}, "gamma": {"float": [0, 1]}}
    assert set(parse_config(minimal(method=method)).space.leaves) == {"method.name", "method.tau"}


def test_ratios_without_cuts_are_dropped_with_their_starting_points():
    config = parse_config(minimal(student={"name": "mobilenet_v2", **CUT_BY_LAYER}, search=ENQUEUED))
    assert config.tree["student"]["ratios"] is None
    assert not config.space.leaves
    assert config.enqueued() == ()


def test_values_of_python_programs_are_written_as_plain_ones():
    given = {"path": Path("a/b"), "width": np.float64(0.25), "k": np.int64(3)}
    assert yaml.safe_load(yaml_text(given)) == {"path": "a/b", "width": 0.25, "k": 3}


def test_a_layer_may_be_called_by_a_number():
    config = parse_config(minimal(student={"name": "cut", "ratios": {0: {"float": [0.1, 1.0]}, 3: 0.5}}))
    assert config.settings({"student.ratios.0": 0.3}).student.ratios == {"0": 0.3, "3": 0.5}


def test_every_searched_batch_has_two_rows_for_each_worker():
    given = ["training.batch_size={choice: [2, 128]}", "resources.workers_per_trial=2"]
    with pytest.raises(UserError, match=r"training\.batch_size: found 2 over 2 workers"):
        load_config(None, given)


@pytest.mark.parametrize("ratios", [None, [0.5], {"layer3": 0.5}])
def test_a_starting_point_for_a_layer_without_a_ratio_is_left_to_the_sampler(ratios):
    config = parse_config(minimal(student={"name": "cut", "ratios": ratios}, search=ENQUEUED))
    assert config.enqueued() == ()
    assert "search.enqueue.0.student.ratios.layer4 = 0.3 (no student" in left_to_sampler(config)


def test_a_distribution_inside_a_list_of_arguments_is_refused():
    with pytest.raises(UserError, match=r"student\.args\.sizes: found a distribution inside the list"):
        parse_config(minimal(student={"name": "cut", "args": {"sizes": [{"float": [0.1, 0.3]}, 0.2]}}))


def test_a_point_outside_its_range_is_refused():
    with pytest.raises(UserError):
        load_config().settings({"method.lam": 3.0})


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("resources.gpus_per_worker", 1.5, "a whole number, or a part of one GPU below 1"),
        ("resources.gpus_per_worker", math.inf, "a whole number"),
        ("resources.gpus_per_worker", 0.00001, "≥ 0.0001"),
        ("resources.cpus_per_worker", 0.00001, "≥ 0.0001"),
    ],
)
def test_resources_that_ray_cannot_allocate_are_refused(key, value, allowed):
    with pytest.raises(UserError) as refused:
        load_config(None, [f"{key}={'.inf' if value == math.inf else f'{value:f}'}"])
    assert str(refused.value).startswith(f"{key}: found {value!r}\n  allowed: {allowed}")


def test_leaves_are_searched_only_where_they_have_an_effect():
    config = load_config()
    conditions = {(c.leaf, c.parent): c.values for c in config.space.conditions}
    assert conditions["method.k", "method.name"] == ("tkd",)
    assert "ce" not in conditions["method.tau", "method.name"]
    assert not any(c.leaf == "student.width" for c in config.space.conditions)


def test_fixing_a_leaf_keeps_the_rest_of_the_enqueued_configurations():
    config = load_config(None, ["method.k=3", "training.lr=0.004"])
    assert config.enqueued()
    assert all("method.k" not in point and "training.lr" not in point for point in config.enqueued())


def test_enqueued_values_outside_the_space_are_listed():
    assert left_to_sampler(load_config(None, ["method.k=3"])) == ""  # a fixed leaf needs no note
    config = load_config(
        None,
        [
            "student.width={float: [0.1, 0.3]}",
            "search.enqueue=[{student.width: 0.2}, {student.width: 0.5, method.name: sp}]",
        ],
    )
    assert config.enqueued() == ({"student.width": 0.2},)
    assert left_to_sampler(config) == (
        "outside the searched space, left to the sampler: "
        "search.enqueue.1.student.width = 0.5 (searched: a number in [0.1, 0.3]); "
        "search.enqueue.1.method.name = 'sp' (searched: one of 'tkd', 'kd', 'ce')"
    )


def test_the_resolved_file_reproduces_the_experiment():
    config = load_config(None, ["method.k=3"])
    again = parse_config(yaml.safe_load(config.to_yaml()))
    assert again.tree == config.tree
    assert again.space == config.space
    assert again.digest() == config.digest()


def test_only_budgets_and_places_may_differ():
    old = load_config()
    budgets = [f"{key}=99" for key in BUDGET_KEYS]
    assert differences(old, load_config(None, [*budgets, "data.path=/elsewhere"])) == []
    assert differences(old, load_config(None, ["seed=1"])) == ["seed: was 0, is 1"]
    assert load_config(None, budgets).digest() == old.digest()
    assert load_config(None, ["seed=1"]).digest() != old.digest()


def test_several_big_models_and_one_of_them_overridden():
    tree = minimal(big_model=[{"name": "alexnet"}, {"name": "resnet18"}])
    assert [m.name for m in parse_config(tree).settings().big_models] == ["alexnet", "resnet18"]
    with pytest.raises(UserError, match=r"big_model\.1\.epochs"):
        parse_config(minimal(big_model=[{"name": "alexnet"}, {"epochs": 0}]))


@pytest.mark.parametrize(
    ("written", "milliseconds"), [("5ms", 5), ("0.2s", 200), ("2.5", 2.5), ("null", None)]
)
def test_a_latency_limit_can_have_a_unit(written, milliseconds):
    config = load_config(None, [f"search.max_latency={written}"])
    assert config.settings().search.latency_limit == milliseconds
    assert parse_config(yaml.safe_load(config.to_yaml())).tree == config.tree


def test_a_leaf_that_no_trial_uses_is_not_searched():
    config = load_config(None, ["method.name=kd"])
    assert {key for key in config.space.leaves if key.startswith("method.")} == {"method.lam", "method.tau"}
    assert config.settings().method == parse_config(minimal(method={"name": "kd"})).settings().method


def test_leaves_of_a_checked_experiment_can_be_replaced():
    config = with_overrides(load_config(), {"method.k": 3, "training.lr": {"float": [0.1, 0.2]}})
    assert config.settings().method.k == 3
    assert "method.k" not in config.space.leaves
    assert config.space.leaves["training.lr"].contains(0.15)
    with pytest.raises(UserError, match=r"method\.kk"):
        with_overrides(config, {"method.kk": 3})


def test_the_tracking_uri_may_differ_and_the_experiment_may_not():
    old = load_config()
    assert differences(old, load_config(None, ["tracking.uri=http://127.0.0.1:5000"])) == []
    assert differences(old, load_config(None, ["tracking.experiment=mine"])) != []


def test_a_fixed_experiment_has_one_trial_and_no_pruner():
    fixed = load_config().fixed({"method.name": "kd"})
    assert fixed.space.leaves == {}
    assert fixed.settings().method.name == "kd"
    search = fixed.settings().search
    assert (search.trials, search.enqueue, search.pruner, search.pruner_args) == (1, (), "never", {})


def test_a_file_without_distributions_has_one_trial(tmp_path):
    file = tmp_path / "one.yaml"
    file.write_text("data: {name: digits}\n")
    assert load_config(file).settings().search.trials == 1
    assert load_config(file, ["search.trials=5"]).settings().search.trials == 5
    assert load_config(file, ["method.k={int: [1, 3]}"]).settings().search.trials == 26


@pytest.mark.parametrize("key", ["data.mean.1", "data.mean.2"])
def test_an_item_of_a_list_is_replaced_by_its_position_also_among_equal_values(key):
    given = ["data.mean=[0.5, 0.5, 0.5]", "data.std=[0.5, 0.5, 0.5]", f"{key}=0.25"]
    expected = [0.5, 0.5, 0.5]
    expected[int(key[-1])] = 0.25
    assert load_config(None, given).tree["data"]["mean"] == expected


@pytest.mark.parametrize("key", ["data.mean.0.x", "data.mean.0.x.y", "seed.x"])
def test_a_key_through_a_value_is_refused(key):
    with pytest.raises(UserError, match=rf"--set {key}: found a value at (data\.mean\.0|seed)"):
        load_config(None, ["data.mean=[0.5]", f"{key}=1"])


def test_a_position_past_the_end_of_a_list_is_refused():
    with pytest.raises(UserError, match="'1'\n  allowed: a position from 0 to 0"):
        load_config(None, ["data.mean=[0.5]", "data.mean.1=1"])


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (["training.mixup=0.2", "method.name=kd"], True),
        (["training.cutmix={float: [0.0, 1.0]}", "method.name={choice: [ce, kd]}"], True),
        (["training.mixup=0.2", "method.name=kd", "data.views=0"], False),
        (["training.mixup=0.2", "method.name=ce"], False),
        (["training.mixup=0.2", "method.name=tkd", "method.distil_back=big_model"], False),
    ],
)
def test_mixed_images_need_f_in_every_step(overrides, refused):
    if not refused:
        assert load_config(None, overrides).settings().training.mixes
        return
    with pytest.raises(UserError, match=r"data\.views"):
        load_config(None, overrides)
