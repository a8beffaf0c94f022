"""Metrics equal scikit-learn's, however the images are divided into batches."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from torch import nn

from tkd_search.distill.method_settings import MetricName
from tkd_search.distill.training.evaluation import class_counts, evaluate, figure

CLASSES = 5
PAIRS = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=60)


def predictions(classes: torch.Tensor) -> torch.Tensor:
    """Return logits that predict these classes."""
    return nn.functional.one_hot(classes, CLASSES).float()


def of_scikit_learn(metric: MetricName, labels: list[int], predicted: list[int]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predictions of classes without images
        if metric == "accuracy":
            return float(metrics.accuracy_score(labels, predicted))
        if metric == "balanced_accuracy":
            return float(metrics.balanced_accuracy_score(labels, predicted))
        return float(metrics.f1_score(labels, predicted, average="macro"))


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
@given(pairs=PAIRS, size=st.integers(1, 60))
def test_metrics_are_those_of_scikit_learn(
    metric: MetricName, pairs: list[tuple[int, int]], size: int
) -> None:
    labels, predicted = (torch.tensor(side) for side in zip(*pairs, strict=True))
    batches = list(zip(predictions(predicted).split(size), labels.split(size), strict=True))
    expected = of_scikit_learn(metric, labels.tolist(), predicted.tolist())
    assert evaluate(nn.Identity(), batches, metric) == pytest.approx(expected, abs=1e-12)


@given(pairs=PAIRS, parts=st.integers(1, 4))
def test_the_counts_of_parts_add_up(pairs: list[tuple[int, int]], parts: int) -> None:
    labels, predicted = (torch.tensor(side) for side in zip(*pairs, strict=True))
    whole = class_counts(predictions(predicted), labels)
    shares = zip(predictions(predicted).tensor_split(parts), labels.tensor_split(parts), strict=True)
    assert torch.equal(torch.stack([class_counts(*share) for share in shares]).sum(0), whole)
    assert whole[1].sum() == whole[2].sum() == len(labels)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_without_images_a_metric_is_nan(metric: MetricName) -> None:
    assert math.isnan(evaluate(nn.Identity(), [], metric))


def test_a_rare_class_weighs_as_much_as_a_frequent_one() -> None:
    labels = torch.tensor([0] * 98 + [1] * 2)
    counts = class_counts(predictions(torch.zeros(100, dtype=torch.int64)), labels)
    assert figure(counts, "accuracy") == 0.98
    assert figure(counts, "balanced_accuracy") == 0.5
    assert figure(counts, "macro_f1") == pytest.approx(2 * 98 / 198 / 2)
