"""Checks before a search that concern several settings, or settings and data."""

import random
import warnings

import numpy as np
import optuna
import pytest
import torch

from tests.data.writers import write_images
from tests.optimize.studies import open_study, run_trial
from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data
from tkd_search.engine.search_checks import check_search
from tkd_search.errors import UserError
from tkd_search.optimize.pruners.base import RungRecord


def test_the_default_experiment_passes(data):
    assert check_search(load_config(None, []), data).taps > 1


def test_a_search_by_latency_needs_networks_that_can_be_measured(data):
    by_latency = ["search.cost=latency", "student.args={}", "bank.taps=[features.*]"]
    check_search(load_config(None, [*by_latency, "student.format=fp16"]), data)
    own = "tests.engine.test_latencies:Unexportable"
    with pytest.raises(UserError, match="Unexportable, whose ONNX file fails"):
        check_search(load_config(None, [*by_latency, f"student.name={own}", "student.width=1.0"]), data)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("search.sampler=tpee", ["search.sampler", "tpee", "nsga2"]),
        ("search.sampler_args={foo: 1}", ["search.sampler", "foo"]),
        ("search.pruner_args={foo: 1}", ["search.pruner", "foo"]),
        ("search.pruner_args={keep: 0.5}", ["search.pruner", "keep = 0.5", "pruner_args={}"]),
        ("search.pruner_args={shares: 0.5}", ["search.pruner", "shares = 0.5", "a list"]),
        ("search.warm_start=[nobody]", ["search.warm_start", "nobody"]),
        ("search.warm_start=['foo://bar']", ["search.warm_start", "foo://bar", "earlier runs"]),
        ("search.warm_start=[pyproject.toml]", ["search.warm_start", "pyproject.toml", "journal"]),
        ("student.name=shufflenet", ["student.name", "shufflenet_v2_x1_0"]),
        ("bank.taps=[nowhere]", ["nowhere"]),
        ("bank.taps=[]", ["bank.taps", "method.name", "auto"]),
        ("method.local=4", ["bank.grid", "method.local", "bank.grid=4"]),
        ("method.stage_feature={choice: [0, 12]}", ["bank.grid", "method.stage_feature"]),
        ("method.name={choice: [kd, at]}", ["bank.grid", "method.name = at"]),
    ],
)
def test_the_error_names_the_setting_and_what_is_allowed(data, setting, words):
    with pytest.raises(UserError) as refused:
        check_search(load_config(None, [setting]), data)
    for word in words:
        assert word in str(refused.value)


def test_trials_of_earlier_searches_that_do_not_fit_are_said(data, tmp_path):
    config = load_config(None, [f"search.warm_start=[{tmp_path}/same, {tmp_path}/other]"])
    study = open_study(tmp_path / "same", space=config.space, full_budget=9)
    first = study.ask().trial_id
    study.report(first, RungRecord(trial_id=first, epoch=9, cost=1000, accuracy=0.5))
    study.complete(first)
    run_trial(open_study(tmp_path / "other"))
    same, other = check_search(config, data).notes[-2:]
    assert same.endswith("same: 1 of 1 trials are learnt from")
    assert "other: 0 of 1 trials are learnt from; a trial counts where" in other


@pytest.fixture(scope="module")
def partly_labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    write_images(folder, 9, size=(8, 8), mode="L")
    return load_data(load_config(None, [f"data.unlabelled={folder}"]).settings().data)


def test_an_epoch_of_unlabelled_images_is_said(partly_labelled):
    config = load_config(None, ["training.unlabelled_ratio=0.5", "method.name={choice: [kd, ce]}"])
    (note,) = check_search(config, partly_labelled).notes[:1]
    labelled = len(partly_labelled.train) - 9
    taken = f"{round(labelled / 2):,} unlabelled ones"
    for words in ("9 unlabelled images", f"{labelled:,} labelled ones", taken):
        assert words in note
    assert "ce takes the labelled ones alone" in note


def test_unlabelled_images_are_refused_where_no_method_learns_from_them(partly_labelled):
    with pytest.raises(UserError, match=r"method\.name: found ce, beside data\.unlabelled"):
        check_search(load_config(None, ["method.name=ce"]), partly_labelled)


FAST = "search.sampler=random"
NO_MAPS = ["bank.taps=['classifier.*']", "bank.grid=4", "method.k=1", "method.name=tkd"]


@pytest.mark.parametrize("term", ["stage_feature", "local", "local_feature"])
def test_a_term_of_maps_is_refused_where_the_big_model_has_none(data, term):
    with pytest.raises(UserError, match=f"method.{term}.*no tap of the big model has a feature map"):
        check_search(load_config(None, [*NO_MAPS, f"method.{term}=1"]), data)


def test_a_vision_transformer_teaches_stages(data):
    vit = ["big_model.name=vit_b_16", "big_model.width=0.1", "method.stage_feature=12", "bank.grid=4"]
    vit += ["student.ratios=null"]  # those of the default are of AlexNet's layers
    assert check_search(load_config(None, vit), data).taps > 1


@pytest.mark.parametrize(
    ("sampler", "args", "complaint"),
    [
        ("optuna.samplers:CmaEsSampler", "{}", "multi-objective"),
        ("optuna.samplers:BruteForceSampler", "{}", "infinite"),
        ("os:getcwd", "{}", "not an Optuna sampler"),
        ("nsga2", "{population_size: 1}", "population_size"),
        ("nsga2", "{child_generation_strategy: uniform}", "not callable"),
        ("tpe", "{n_startup_trials: many}", "str"),
        ("tpe", "{n_ei_candidates: 0}", "positive"),
        ("gp", "{n_startup_trials: many}", "str"),
        ("ehvi", "{memory: 1.5}", "memory = 1.5; allowed: a whole number"),
        ("ehvi", "{random: 10.5}", "random = 10.5; allowed: a whole number"),
        ("ehvi", "{aimed: often}", "aimed = 'often'; allowed: a number"),
        ("random", "{whatever: 1}", "random has no arguments"),
        ("qmc", "{scramble: false}", "qmc has no arguments"),
    ],
)
def test_a_sampler_that_fails_at_its_first_suggestions_is_refused(data, sampler, args, complaint):
    given = [f"search.sampler={sampler}", f"search.sampler_args={args}"]
    with pytest.raises(UserError, match=r"search\.sampler: found") as refused:
        check_search(load_config(None, given), data)
    for word in (sampler, complaint, "ehvi, tpe, nsga2, gp, random, qmc", "search.sampler_args={}"):
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("sampler", "args"),
    [
        ("tpe", "{multivariate: true, group: true}"),
        ("nsga2", "{population_size: 8}"),
        ("gp", "{}"),
        ("random", "{}"),
        ("qmc", "{}"),
        ("ehvi", "{memory: 1, random: 1, local: 1, polish: 1, aimed: 1}"),
        ("optuna.samplers:NSGAIIISampler", "{}"),
    ],
)
def test_working_samplers_pass(data, sampler, args):
    given = [f"search.sampler={sampler}", f"search.sampler_args={args}"]
    assert check_search(load_config(None, given), data).taps > 1


class CarelessSampler(optuna.samplers.RandomSampler):
    """Draws from every global random state, warns and logs."""

    calls = 0

    def sample_relative(self, *args):
        type(self).calls += 1
        random.random(), np.random.random(), torch.rand(1)
        warnings.warn("careless", stacklevel=1)
        optuna.logging.get_logger("optuna").warning("careless")
        return super().sample_relative(*args)


def test_checking_a_sampler_restores_random_states_and_prints_nothing(data, capfd, recwarn):
    def states_after(sampler):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        check_search(load_config(None, [f"search.sampler={sampler}"]), data)
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    verbosity = optuna.logging.get_verbosity()
    assert states_after(f"{__name__}:CarelessSampler") == states_after("random")
    assert CarelessSampler.calls > 0
    assert optuna.logging.get_verbosity() == verbosity
    assert "careless" not in "".join(capfd.readouterr()) + "".join(str(w.message) for w in recwarn)


def test_taps_may_be_those_of_one_of_several_big_models(data):
    models = "[{name: alexnet, width: 0.1}, {name: resnet18, width: 0.1}]"
    given = [f"big_model={models}", "bank.taps=[layer3*, features.5]"]
    assert check_search(load_config(None, given), data).taps > 2


def test_cell_terms_without_effect_need_no_cells(data):
    for given in (["method.name=kd", "method.local=4"], ["bank.grid=4", "method.local=4"]):
        assert check_search(load_config(None, given), data).taps > 1


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["method.k=999"], "999"),
        (["method.k=999", "method.masks={int: [1, 4]}"], "999"),
        (["method.k=999", "method.masks={choice: [1, 2]}"], "999"),
        (["method.k={int: [998, 999]}"], "at least 998"),
        (["method.k={choice: [999, 998]}"], "at least 998"),
        (["method.k=999", "method.name={choice: [kd, tkd]}"], "999"),
    ],
)
def test_a_k_that_is_always_above_the_number_of_candidates_is_refused(data, given, found):
    with pytest.raises(
        UserError, match=rf"method\.k: found {found}\n  allowed: 1 to \d+: \d+ taps × \d masks"
    ):
        check_search(load_config(None, given), data)


def test_a_k_below_the_number_of_candidates_with_the_most_masks_is_accepted(data):
    taps = check_search(load_config(None, [FAST]), data).taps
    for masks in ("method.masks={int: [1, 4]}", "method.masks={choice: [4, 1]}", "method.masks=4"):
        check_search(load_config(None, [f"method.k={4 * taps}", masks, FAST]), data)
        with pytest.raises(UserError, match=rf"1 to {4 * taps}: {taps} taps × 4 masks"):
            check_search(load_config(None, [f"method.k={4 * taps + 1}", masks, FAST]), data)


def test_k_is_not_checked_where_no_trial_generates_teachers(data):
    for method in ("kd", "{choice: [kd, ce]}"):
        check_search(load_config(None, ["method.k=999", f"method.name={method}", FAST]), data)


def test_a_space_with_a_k_above_the_number_of_candidates_gets_a_note(data):
    assert check_search(load_config(None, ["method.k={int: [1, 2]}", FAST]), data).notes == ()
    (note,) = check_search(load_config(None, ["method.k={int: [1, 999]}", FAST]), data).notes
    assert "searched up to 999" in note


def test_a_big_model_whose_head_is_replaced_gets_a_note(data, tmp_path):
    from tkd_search.models import build_big_model, save_weights

    given = ["big_model.width=0.1", "big_model.epochs=7"]
    settings = load_config(None, given).settings().big_models[0]
    save_weights(build_big_model(settings, classes=7, channels=1, size=8).model, tmp_path / "f.safetensors")
    given.append(f"big_model.weights={tmp_path / 'f.safetensors'}")
    (note,) = check_search(load_config(None, given), data).notes
    assert "the head has 7 classes, the data 10: head replaced, F fine-tuned" in note
    assert "1 of the head alone, then 7 of all layers" in note
