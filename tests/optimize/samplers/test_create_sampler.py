"""Designs without a model, and samplers by name."""

import numpy as np
import optuna
import pytest

from tkd_search.optimize.samplers.create_sampler import design_point, make_sampler


@pytest.mark.parametrize("name", ["random", "qmc"])
def test_a_point_depends_only_on_seed_and_number(name):
    late_first = design_point(name, 200, 5, seed=3)
    early = [design_point(name, i, 5, seed=3) for i in range(10)]
    assert (design_point(name, 200, 5, seed=3) == late_first).all()
    assert all((design_point(name, i, 5, seed=3) == point).all() for i, point in enumerate(early))
    assert (design_point(name, 0, 5, seed=4) != early[0]).any()
    assert all(((point >= 0) & (point < 1)).all() for point in early)


def test_quasi_random_points_are_evenly_distributed():
    for dimension in range(6):
        points = np.array([design_point("qmc", i, 6, seed=0)[dimension] for i in range(16)])
        assert sorted(np.floor(points * 16)) == list(range(16))


def test_a_space_without_leaves_has_one_point():
    assert design_point("qmc", 3, 0, seed=0).shape == (0,)


def test_samplers_by_name_and_import_path():
    assert isinstance(make_sampler("tpe")(0), optuna.samplers.TPESampler)
    assert isinstance(make_sampler("nsga2", {"population_size": 8})(0), optuna.samplers.NSGAIISampler)
    path = "optuna.samplers:BruteForceSampler"
    assert isinstance(make_sampler(path)(0), optuna.samplers.BruteForceSampler)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("best", "known: ehvi, tpe, nsga2, gp, random, qmc"),
        ("nowhere:Sampler", "nowhere"),
        ("optuna.samplers:Nothing", "Nothing"),
    ],
)
def test_unknown_samplers_are_refused(name, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_sampler(name)


@pytest.mark.parametrize("option", ["seed", "constraints_func", "after_trial_strategy"])
def test_options_without_effect_are_refused(option):
    with pytest.raises(ValueError, match=option):
        make_sampler("nsga2", {option: 1})


@pytest.mark.parametrize("path", [".samplers:Sampler", "optuna:__name__"])
def test_an_import_path_without_a_class_is_refused(path):
    with pytest.raises(ValueError, match="sampler"):
        make_sampler(path)


def test_a_callable_that_returns_no_sampler_is_refused():
    """Optuna replaces None by its default sampler."""
    with pytest.raises(ValueError, match="not an Optuna sampler"):
        make_sampler("gc:collect")(0)
