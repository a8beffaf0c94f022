"""Streaming statistics equal one pass in float64 for every split of the rows."""

from functools import reduce
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tkd_search.distill.features.tap_statistics import Moments, fisher_ratio, merge, moments

CLASSES = 3


def rows_and_labels(seed: int, rows: int, channels: int, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, channels, generator=generator) * 3 + offset
    return x, torch.randint(0, CLASSES, (rows,), generator=generator)


def same(a: Moments, b: Moments, tolerance: float) -> None:
    assert a.count == b.count
    for name in ("mean", "m2", "class_count", "class_sum"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=tolerance, atol=tolerance)


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    offset=st.floats(-1e4, 1e4),
)
@settings(max_examples=60, deadline=None)
def test_any_split_equals_one_pass(seed: int, rows: int, cuts: list[int], offset: float) -> None:
    x, labels = rows_and_labels(seed, rows, 4, offset)
    bounds = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    parts = [moments(x[a:b], labels[a:b], CLASSES) for a, b in pairwise(bounds)]
    whole = moments(x, labels, CLASSES)
    same(reduce(merge, parts), whole, 1e-6)
    exact = x.double()
    torch.testing.assert_close(whole.variance, exact.var(0, unbiased=False), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(whole.mean, exact.mean(0), rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 1000), order=st.permutations(range(5)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_merging_does_not_matter(seed: int, order: list[int]) -> None:
    x, labels = rows_and_labels(seed, 50, 3, 100.0)
    parts = [moments(x[i::5], labels[i::5], CLASSES) for i in range(5)]
    same(reduce(merge, (parts[i] for i in order)), moments(x, labels, CLASSES), 1e-6)


def test_half_precision_rows_are_summed_in_double() -> None:
    x, labels = rows_and_labels(0, 4000, 2, 1000.0)
    half = x.half()
    torch.testing.assert_close(
        moments(half, labels, CLASSES).variance, half.double().var(0, unbiased=False), rtol=1e-9, atol=1e-9
    )


def test_class_means() -> None:
    x, labels = rows_and_labels(3, 90, 4, 0.0)
    stats = merge(moments(x[:30], labels[:30], CLASSES), moments(x[30:], labels[30:], CLASSES))
    for label in range(CLASSES):
        mean = stats.class_sum[label] / stats.class_count[label]
        torch.testing.assert_close(mean, x[labels == label].double().mean(0))


def test_fisher_ratio_is_larger_for_separated_classes() -> None:
    x, labels = rows_and_labels(5, 600, 4, 0.0)
    mixed = fisher_ratio(moments(x, labels, CLASSES))
    apart = fisher_ratio(moments(x + 5 * labels[:, None], labels, CLASSES))
    assert mixed < 0.05 < 1 < apart


def test_fisher_ratio_ignores_scale_and_constant_channels() -> None:
    x, labels = rows_and_labels(5, 200, 3, 0.0)
    x = x + labels[:, None]
    scaled = torch.cat([x * torch.tensor([1.0, 100.0, 0.01]), torch.ones(200, 1)], 1)
    assert fisher_ratio(moments(scaled, labels, CLASSES)) == pytest.approx(
        fisher_ratio(moments(x, labels, CLASSES)), rel=1e-5
    )
    assert fisher_ratio(moments(torch.ones(9, 2), labels[:9], CLASSES)) == 0.0
