"""Conformance of selection criteria, and selection of teachers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tkd_search.distill.losses.functional import kl
from tkd_search.distill.method_settings import MethodSettings
from tkd_search.distill.teachers.criteria import CRITERIA, Snapshot
from tkd_search.distill.teachers.selection import depth_order, omega_of, select, top, weighted_score, z_scored

N, CLASSES, WIDTH = 6, 4, 5


def snapshot(rows: int = 16, seed: int = 0) -> Snapshot:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Snapshot(
        labels=torch.randint(0, CLASSES, (rows,), generator=generator),
        logits=normal(rows, CLASSES),
        hidden=normal(rows, 7),
        teachers=normal(N, rows, CLASSES),
        features=normal(N, rows, WIDTH),
        slopes=normal(N, rows, 1),
        score_head=normal(N, CLASSES),
        score_norm=normal(N).abs(),
        head_norm=normal(N).abs(),
        fisher=normal(N).abs(),
        tau=2.0,
    )


def permuted(at: Snapshot, order: torch.Tensor) -> Snapshot:
    per_candidate = (
        "teachers",
        "features",
        "slopes",
        "score_head",
        "score_norm",
        "head_norm",
        "fisher",
    )
    return replace(at, **{name: getattr(at, name)[order] for name in per_candidate})


@pytest.mark.parametrize("name", CRITERIA)
class TestConformance:
    @pytest.mark.parametrize("rows", [1, 3, 4, 16])
    def test_one_finite_number_per_candidate(self, name: str, rows: int) -> None:
        value = CRITERIA[name](snapshot(rows))
        assert value.shape == (N,)
        assert value.isfinite().all()
        assert value.is_floating_point()

    def test_permuting_candidates_permutes_the_criterion(self, name: str) -> None:
        at, order = snapshot(), torch.tensor([3, 1, 5, 0, 4, 2])
        torch.testing.assert_close(CRITERIA[name](permuted(at, order)), CRITERIA[name](at)[order])

    def test_order_of_rows_does_not_matter(self, name: str) -> None:
        at = snapshot()
        order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
        shuffled = replace(
            at,
            labels=at.labels[order],
            logits=at.logits[order],
            hidden=at.hidden[order],
            teachers=at.teachers[:, order],
            features=at.features[:, order],
            slopes=at.slopes[:, order],
        )
        torch.testing.assert_close(CRITERIA[name](shuffled), CRITERIA[name](at), rtol=1e-4, atol=1e-4)

    def test_degenerate_candidates_have_finite_values(self, name: str) -> None:
        at = snapshot()
        degenerate = replace(
            at,
            features=torch.zeros_like(at.features),
            slopes=torch.zeros_like(at.slopes),
            score_norm=torch.zeros(N),
            head_norm=torch.zeros(N),
            fisher=torch.zeros(N),
        )
        assert CRITERIA[name](degenerate).isfinite().all()

    def test_the_settings_have_its_weight(self, name: str) -> None:
        assert hasattr(MethodSettings(), f"omega_{name}")


def test_weight_norm_and_fisher_are_logarithms() -> None:
    at = replace(
        snapshot(),
        score_norm=torch.full((N,), 2.0),
        head_norm=torch.full((N,), 3.0),
        fisher=torch.full((N,), 5.0),
    )
    torch.testing.assert_close(CRITERIA["weight_norm"](at), torch.full((N,), 6.0).log())
    torch.testing.assert_close(CRITERIA["fisher"](at), torch.full((N,), 5.0).log())


def test_the_gradient_criterion_equals_the_norm_of_the_gradient_of_j() -> None:
    """J is a function of θ through teachers that change by their slopes."""
    at = snapshot()
    theta = torch.zeros(N, 1, requires_grad=True)
    moved = at.teachers + (at.slopes @ theta[:, :, None]) * at.score_head[:, None]
    j = kl(moved, at.logits, at.tau).mean(1)
    (exact,) = torch.autograd.grad(j.sum(), theta)
    torch.testing.assert_close(CRITERIA["gradient"](at), exact.norm(dim=1).log(), rtol=1e-4, atol=1e-4)


def test_probe_is_largest_for_the_candidate_that_predicts_the_labels() -> None:
    at = snapshot()
    teachers = at.teachers.clone()
    teachers[4] = 5 * torch.nn.functional.one_hot(at.labels, CLASSES)
    assert int(CRITERIA["probe"](replace(at, teachers=teachers)).argmax()) == 4


def test_alignment_is_zero_with_fewer_than_four_rows() -> None:
    assert [bool(CRITERIA["alignment"](snapshot(rows)).any()) for rows in (3, 4)] == [False, True]


def test_alignment_is_largest_for_the_students_own_features() -> None:
    at = snapshot(64)
    features = at.features.clone()
    features[2] = at.hidden[:, :WIDTH]
    assert int(CRITERIA["alignment"](replace(at, features=features)).argmax()) == 2


def chosen(at: Snapshot, taps: int = 3, seed: int = 0, **settings: object):
    generator = torch.Generator().manual_seed(seed)
    return select(MethodSettings(**settings), at, taps=taps, generator=generator)


def test_the_heuristic_ranks_by_the_weighted_sum_of_z_scores() -> None:
    at = snapshot()
    omega = {"probe": 1.0, "fisher": 0.5}
    score = (z_scored(CRITERIA["probe"](at)) + 0.5 * z_scored(CRITERIA["fisher"](at))) / 1.5
    torch.testing.assert_close(weighted_score({n: CRITERIA[n](at) for n in omega}, omega), score)
    found = chosen(
        at, omega_probe=1.0, omega_fisher=0.5, omega_weight_norm=0.0, k=2, selection_temperature=0.7
    )
    best = score.argsort(descending=True)[:2]
    assert torch.equal(found.candidates, best)
    torch.testing.assert_close(found.weights, (score[best] / 0.7).softmax(0).float())


@given(k=st.integers(1, 20), kind=st.sampled_from(["heuristic", "uniform", "random", "last_k", "all"]))
def test_every_kind_gives_distinct_candidates_and_weights_that_sum_to_one(k: int, kind: str) -> None:
    found = chosen(snapshot(), k=k, selection=kind)
    number = N if kind == "all" else min(k, N)
    assert len(set(found.candidates.tolist())) == len(found.candidates) == number
    assert float(found.weights.sum()) == pytest.approx(1, abs=1e-5)
    assert (found.weights >= 0).all()


@given(order=st.permutations(range(N)))
def test_the_heuristic_does_not_depend_on_the_order_of_candidates(order: list[int]) -> None:
    at = snapshot()
    shuffled = chosen(permuted(at, torch.tensor(order)), k=3, omega_alignment=0.3, omega_gradient=0.2)
    straight = chosen(at, k=3, omega_alignment=0.3, omega_gradient=0.2)
    assert [order[k] for k in shuffled.candidates.tolist()] == straight.candidates.tolist()
    torch.testing.assert_close(shuffled.weights, straight.weights)


@given(scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_scores_ignore_the_scale_of_a_criterion(scale: float, shift: float) -> None:
    values = torch.tensor([0.0, 1.0, 5.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(z_scored(values * scale + shift), z_scored(values), rtol=1e-3, atol=1e-3)


def test_controls() -> None:
    at = snapshot()
    assert chosen(at, selection="last_k", k=4).candidates.tolist() == [2, 1, 0, 5]
    assert depth_order(3, 2).argsort(descending=True).tolist() == [2, 1, 0, 5, 4, 3]
    uniform, heuristic = chosen(at, selection="uniform"), chosen(at)
    assert torch.equal(uniform.candidates, heuristic.candidates)
    torch.testing.assert_close(uniform.weights, torch.full((3,), 1 / 3))
    draws = {tuple(chosen(at, selection="random", seed=seed).candidates.tolist()) for seed in range(20)}
    assert len(draws) > 5
    assert (
        chosen(at, selection="random", seed=3).candidates.tolist()
        == chosen(at, selection="random", seed=3).candidates.tolist()
    )


def test_edge_cases_of_scores() -> None:
    assert z_scored(torch.tensor([3.0])).tolist() == [0.0]
    assert z_scored(torch.tensor([2.0, 2.0])).abs().max() == 0
    nan = z_scored(torch.tensor([float("nan"), 1.0, 2.0]))
    assert nan.isfinite().all()
    assert nan[0] == nan[1] < nan[2]
    assert top(torch.tensor([1.0, 2.0, 2.0]), 2).tolist() == [1, 2]
    assert omega_of(MethodSettings(omega_probe=0.0)) == {"weight_norm": 0.25, "fisher": 0.25}
    no_weights = {"omega_probe": 0.0, "omega_weight_norm": 0.0, "omega_fisher": 0.0}
    assert chosen(snapshot(), k=2, **no_weights).candidates.tolist() == [0, 1]
