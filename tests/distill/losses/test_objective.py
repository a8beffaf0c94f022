"""Terms of the objective: the mixture of labels and F, and the baselines on features."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.distill.nets import TinyStudent, digit_bank, digit_views
from tkd_search.distill import MethodSettings
from tkd_search.distill.features.signal_source import BankSource, Signals
from tkd_search.distill.losses import functional
from tkd_search.distill.losses.objective import (
    Batch,
    Context,
    FeatureDistillation,
    LabelsOnly,
    mixed_terms,
    pooled_cells,
    student_cells,
)
from tkd_search.distill.training.reduction import SingleProcess

ROWS, BEFORE_LOGITS, DEEPEST_MAP = 12, 2, 1


def context() -> Context:
    generator = torch.Generator().manual_seed(0)
    return Context(TinyStudent(), digit_bank(50, grid=4), SingleProcess(), generator, smoothing=0.1)


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    views, index = digit_views(50), torch.arange(ROWS)
    images = views.batch(index, torch.zeros_like(index))
    source = BankSource(digit_bank(50, grid=4), features=True, cells=True, device=torch.device("cpu"))
    signals = source.read(torch.zeros_like(index), index, images)
    return Batch(views.labels[index], TinyStudent()(images), signals, 0.0, 0)


def signals_of(batch: Batch) -> Signals:
    """Return the signals of the batch."""
    assert batch.signals is not None
    return batch.signals


def tap_before_logits(batch: Batch) -> Tensor:
    features = signals_of(batch).features
    assert features is not None
    return features[:, BEFORE_LOGITS].float()


def feature_term(batch: Batch, name: str) -> Tensor:
    return FeatureDistillation(MethodSettings(name=name, hint_weight=3.0), context()).terms(batch)["feature"]


@pytest.mark.parametrize("kind", ["kl", "dist", "dkd"])
def test_labels_and_f_are_mixed_by_lambda_and_gamma(batch: Batch, kind: str) -> None:
    settings = MethodSettings(lam=0.8, tau=3.0, dkd_beta=5.0)
    a, z, labels = signals_of(batch).logits, batch.output.logits, batch.labels
    distance = {
        "kl": functional.kl(a, z, 3.0).mean(),
        "dist": functional.dist(a, z, 3.0),
        "dkd": functional.dkd(a, z, labels, 3.0, 5.0),
    }
    terms = mixed_terms(settings, context(), batch, 0.25, kind)
    assert set(terms) == {"labels", "big_model"}
    torch.testing.assert_close(terms["labels"], 0.2 * F.cross_entropy(z, labels, label_smoothing=0.1))
    torch.testing.assert_close(terms["big_model"], 0.8 * 0.75 * distance[kind])


def test_terms_without_weight_are_absent(batch: Batch) -> None:
    assert set(mixed_terms(MethodSettings(lam=1.0), context(), batch, 0.0)) == {"big_model"}
    assert set(mixed_terms(MethodSettings(lam=0.5), context(), batch, 1.0)) == {"labels"}
    without = FeatureDistillation(MethodSettings(name="sp", hint_weight=0.0), context()).terms(batch)
    assert set(without) == {"labels", "big_model"}


def test_hint_predicts_the_tap_before_the_logits_through_its_adapter(batch: Batch) -> None:
    settings = MethodSettings(name="hint", hint_weight=3.0)
    made = FeatureDistillation(settings, context())
    assert [p is made.adapter for p in made.student_parameters()] == [True]
    target = tap_before_logits(batch)
    expected = 3 * F.mse_loss(F.linear(batch.output.features, made.adapter), target)
    torch.testing.assert_close(made.terms(batch)["feature"], expected)


def test_sp_compares_rows_at_the_tap_before_the_logits(batch: Batch) -> None:
    target = tap_before_logits(batch)
    expected = 3 * functional.similarity_preserving(target, batch.output.features)
    torch.testing.assert_close(feature_term(batch, "sp"), expected)


def test_at_compares_attention_at_the_deepest_map(batch: Batch) -> None:
    cells, maps = signals_of(batch).cells, batch.output.maps
    assert cells is not None
    assert maps is not None
    expected = 3 * functional.attention_transfer(
        cells[:, DEEPEST_MAP].float().transpose(1, 2), maps.flatten(2)
    )
    torch.testing.assert_close(feature_term(batch, "at"), expected)
    without_maps = batch._replace(output=batch.output._replace(maps=None))
    assert feature_term(without_maps, "at") == 0


def test_plain_training_is_smoothed_cross_entropy(batch: Batch) -> None:
    expected = F.cross_entropy(batch.output.logits, batch.labels, label_smoothing=0.1)
    torch.testing.assert_close(LabelsOnly(context()).terms(batch), {"labels": expected})


def test_the_deepest_taps_are_the_last_map_and_the_last_before_the_logits() -> None:
    found = context()
    assert (found.deepest_spatial_tap(), found.tap_before_logits()) == (DEEPEST_MAP, BEFORE_LOGITS)
    bank = found.bank
    assert bank is not None
    flat = replace(found, bank=replace(bank, taps=tuple(replace(tap, positions=0) for tap in bank.taps)))
    assert flat.deepest_spatial_tap() == BEFORE_LOGITS


def test_cells_are_averaged_onto_the_coarser_grid() -> None:
    values = torch.arange(16.0).expand(2, 3, 16)
    assert pooled_cells(values, 4, 4) is values
    assert pooled_cells(values, 4, 2)[0, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    for height, width, side in ((8, 8, 4), (3, 5, 3), (5, 2, 2)):
        maps = torch.randn(2, 3, height, width)
        cells, found = student_cells(maps, 4)
        assert (found, cells.shape) == (side, (2, 3, side * side))
