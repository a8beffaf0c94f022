"""Properties of splits: every image once, the share of every class, the same result for the same seed."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tkd_search.data.splits import held_out, limited

LABELS = st.lists(st.integers(0, 5), min_size=12, max_size=120).map(lambda labels: torch.tensor(labels))
SHARES = st.floats(0.05, 0.9)
SEEDS = st.integers(0, 5)


@settings(deadline=None)
@given(labels=LABELS, share=SHARES, seed=SEEDS)
def test_every_image_is_kept_or_held_out(labels: torch.Tensor, share: float, seed: int) -> None:
    kept, held = held_out(labels, share, seed)
    together = torch.cat([kept, held])
    assert torch.equal(together.sort().values, torch.arange(len(labels)))
    assert torch.equal(kept, kept.sort().values)


@settings(deadline=None)
@given(labels=LABELS, share=SHARES, seed=SEEDS)
def test_the_same_share_of_every_class_is_held_out(labels: torch.Tensor, share: float, seed: int) -> None:
    _, held = held_out(labels, share, seed)
    for label in labels.unique():
        count, held_count = int((labels == label).sum()), int((labels[held] == label).sum())
        assert abs(held_count - share * count) <= 1
        if count >= 2:
            assert 1 <= held_count < count


@settings(deadline=None)
@given(labels=LABELS, share=SHARES, seed=SEEDS, whole=st.sets(st.integers(0, 5)))
def test_classes_kept_whole_do_not_change_the_split_of_others(
    labels: torch.Tensor, share: float, seed: int, whole: set[int]
) -> None:
    held = {label: held_out(labels, share, seed, whole=kept)[1] for label, kept in ((0, set()), (1, whole))}
    rest = [position for position in held[0].tolist() if int(labels[position]) not in whole]
    assert held[1].tolist() == rest


@settings(deadline=None)
@given(labels=LABELS, seed=SEEDS)
def test_the_same_seed_gives_the_same_split(labels: torch.Tensor, seed: int) -> None:
    first, again = held_out(labels, 0.3, seed), held_out(labels, 0.3, seed)
    assert torch.equal(first[1], again[1])


def test_another_seed_gives_another_split() -> None:
    labels = torch.arange(1000) % 10
    assert not torch.equal(held_out(labels, 0.3, 0)[1], held_out(labels, 0.3, 1)[1])


@settings(deadline=None)
@given(labels=LABELS, limit=st.integers(1, 150), seed=SEEDS)
def test_a_limit_is_exact_and_balanced(labels: torch.Tensor, limit: int, seed: int) -> None:
    chosen = limited(labels, limit, seed)
    assert len(chosen) == min(limit, len(labels)) == len(chosen.unique())
    taken = torch.bincount(labels[chosen], minlength=6)
    have = torch.bincount(labels, minlength=6)
    for label in range(6):
        # A class with fewer chosen images than the largest has no images left, up to one.
        assert taken[label] >= min(int(have[label]), int(taken.max()) - 1)


def test_a_smaller_limit_is_a_subset_of_a_larger_one() -> None:
    labels = torch.arange(300) % 3
    small, large = limited(labels, 30, 0), limited(labels, 90, 0)
    assert set(small.tolist()) <= set(large.tolist())
