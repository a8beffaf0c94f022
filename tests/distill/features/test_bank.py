"""The bank holds the output of frozen big models, standardised and projected by the equations."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.distill.nets import DigitViews, TinyBig, digit_bank, digit_views, trained_big_model
from tkd_search.distill.features import bank_builder
from tkd_search.distill.features.bank import Bank, bank_row_bytes
from tkd_search.distill.features.bank_builder import BankBuilder, Survey, compute_bank, merge_surveys
from tkd_search.distill.features.ensemble_reader import mean_logits
from tkd_search.distill.features.projection import fit_projection
from tkd_search.distill.features.signal_source import BankSource, LiveSource
from tkd_search.distill.features.tap_statistics import moments
from tkd_search.distill.method_settings import BankSettings

CPU = torch.device("cpu")


def rows(views: DigitViews) -> Tensor:
    index = torch.arange(len(views))
    return torch.cat([views.batch(index, torch.full_like(index, v)) for v in range(views.views)])


def test_rows_are_standardised_pooled_features_and_logits() -> None:
    views, model = digit_views(200), trained_big_model()
    bank = compute_bank([model], views, BankSettings(width=32), batch_size=37)
    assert [tap.name for tap in bank.taps] == ["features.1", "features.5", "classifier.2", "logits"]
    assert bank.widths == [16, 24, 32, 10]
    assert bank.features.shape == (400, 4, 32)
    assert bank.features.dtype == torch.half
    with torch.no_grad():
        images = rows(views)
        pooled = model.features[:2](images).mean((2, 3)).double()
        logits = model(images)
    expected = (pooled - pooled.mean(0)) / (pooled.std(0, unbiased=False) + 1e-3)
    torch.testing.assert_close(bank.features[:, 0, :16].double(), expected, rtol=2e-3, atol=2e-3)
    assert bank.features[:, 0, 16:].abs().max() == 0
    torch.testing.assert_close(bank.logits.float(), logits, rtol=2e-3, atol=2e-2)


def test_a_bank_without_taps_has_the_same_logits_in_two_bytes_a_class() -> None:
    views, model = digit_views(60), trained_big_model()
    whole = compute_bank([model], views, BankSettings(width=32))
    alone = compute_bank([model], views, BankSettings(width=32, taps=()))
    assert torch.equal(alone.logits, whole.logits)
    assert alone.nbytes == 2 * 10 * len(alone.logits) == 2 * 10 * 120
    again = Bank.from_tensors(alone.tensors(), alone.meta())
    assert (again.width, again.classes, again.taps, again.nbytes) == (32, 10, (), alone.nbytes)


def test_wide_taps_are_projected_on_principal_directions_of_unit_mean_variance() -> None:
    bank = digit_bank()
    wide = bank.features[:, 2].double()
    assert float(wide.var()) == pytest.approx(1, abs=0.05)
    covariance = wide.T @ wide / len(wide)
    off = covariance - covariance.diag().diag()
    assert off.abs().max() < 0.05 * covariance.diag().max()
    assert (covariance.diag().diff() < 1e-3).all()


@pytest.mark.parametrize("channels", [40, 1100])
def test_projection_explains_as_much_as_the_exact_directions(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator) @ torch.randn(6, channels, generator=generator)
    x = x + 0.1 * torch.randn(400, channels, generator=generator)
    stats = moments(x, torch.zeros(400, dtype=torch.long), 1)
    project = fit_projection(x, stats, 6, generator)
    assert project.basis is not None
    u = (x - project.mean) / project.scale
    directions = torch.linalg.qr(project.basis).Q
    best = torch.linalg.svdvals(u)[:6].square().sum()
    assert float((u @ directions).square().sum() / best) > 0.999


def test_the_bank_does_not_depend_on_the_batch_size() -> None:
    views, settings = digit_views(150), BankSettings(width=24, grid=2)
    a = compute_bank([trained_big_model()], views, settings, batch_size=64)
    b = compute_bank([trained_big_model()], views, settings, batch_size=64)
    c = compute_bank([trained_big_model()], views, settings, batch_size=50)
    for name, tensor in a.tensors().items():
        assert torch.equal(tensor, b.tensors()[name]), name
        torch.testing.assert_close(tensor, c.tensors()[name], rtol=1e-2, atol=1e-2, msg=name)


def test_two_passes_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    views, settings = digit_views(150), BankSettings(width=24, grid=2)
    one = compute_bank([trained_big_model()], views, settings, batch_size=40)
    for budget in (0, 200_000):
        monkeypatch.setattr(bank_builder, "_KEEP_BYTES", budget)
        two = compute_bank([trained_big_model()], views, settings, batch_size=40)
        for name, tensor in one.tensors().items():
            assert torch.equal(tensor, two.tensors()[name]), name


def test_a_survey_of_some_rows_describes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    views, settings = digit_views(300), BankSettings(width=24)
    whole = compute_bank([trained_big_model()], views, settings, batch_size=40)
    monkeypatch.setattr(bank_builder, "_SURVEYED", 250)
    some = compute_bank([trained_big_model()], views, settings, batch_size=40)
    assert some.features.shape == whole.features.shape
    assert torch.equal(some.logits, whole.logits)
    for a, b in zip(some.projections, whole.projections, strict=True):
        assert not torch.equal(a.mean, b.mean)
        torch.testing.assert_close(a.scale, b.scale, rtol=0.25, atol=0.1)


def test_cells_of_stages_are_those_of_the_deepest_tap_of_every_size() -> None:
    settings = BankSettings(taps=("features.*",), width=16, grid=2)
    whole = compute_bank([trained_big_model()], digit_views(60), settings)
    some = compute_bank([trained_big_model()], digit_views(60), replace(settings, cells="stages"))
    deepest = {whole.taps[i].positions: i for i in whole.cell_taps}
    assert some.cell_taps == tuple(sorted(deepest.values()))
    assert len(some.cell_taps) < len(whole.cell_taps)
    assert whole.cells is not None
    assert some.cells is not None
    assert torch.equal(some.cells, whole.cells[:, [whole.cell_taps.index(i) for i in some.cell_taps]])
    assert torch.equal(some.features, whole.features)
    for bank, cells in ((whole, "all"), (some, "stages")):
        row = bank_row_bytes(bank.taps, replace(settings, cells=cells), 10)
        assert bank.nbytes == 120 * row


def test_f_runs_in_eval_mode_and_is_not_changed() -> None:
    model = TinyBig().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    a = compute_bank([model], digit_views(60), BankSettings(width=16))
    b = compute_bank([model], digit_views(60), BankSettings(width=16))
    assert torch.equal(a.logits, b.logits), "dropout must be off"
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(m._forward_hooks for m in model.modules())


def test_cells_average_to_the_pooled_features() -> None:
    bank = digit_bank(grid=4)
    assert bank.cells is not None
    assert bank.cell_taps == (0, 1)
    assert bank.cells.shape == (600, 2, 16, 32)
    torch.testing.assert_close(
        bank.cells.float().mean(2), bank.features[:, list(bank.cell_taps)].float(), rtol=1e-2, atol=1e-2
    )


def test_a_bank_is_restored_from_its_tensors_and_json() -> None:
    for bank in (digit_bank(grid=4), digit_bank()):
        again = Bank.from_tensors(bank.tensors(), json.loads(json.dumps(bank.meta())))
        assert again.taps == bank.taps
        assert again.fisher == bank.fisher
        assert (again.views, again.grid, again.width, again.widths) == (
            bank.views,
            bank.grid,
            bank.width,
            bank.widths,
        )
        assert all(torch.equal(again.tensors()[name], value) for name, value in bank.tensors().items())


def test_rows_are_numbered_view_by_view() -> None:
    bank, views = digit_bank(), digit_views()
    index, view = torch.tensor([7, 7, 250]), torch.tensor([0, 1, 1])
    assert bank.rows(view, index).tolist() == [7, 307, 550]
    source = BankSource(bank, features=True, cells=False, device=CPU)
    with torch.no_grad():
        logits = trained_big_model()(views.batch(index, view))
    torch.testing.assert_close(source.read(view, index, torch.empty(0)).logits, logits, rtol=2e-3, atol=2e-2)


def test_live_signals_equal_those_of_the_bank() -> None:
    bank, views = digit_bank(grid=4), digit_views()
    index, view = torch.arange(20), torch.ones(20, dtype=torch.long)
    images = views.batch(index, view)
    banked = BankSource(bank, features=True, cells=True, device=CPU).read(view, index, images)
    live = LiveSource([trained_big_model()], bank, features=True, cells=True).read(view, index, images)
    for a, b in zip(
        (banked.logits, banked.features, banked.cells), (live.logits, live.features, live.cells), strict=True
    ):
        assert a is not None
        assert b is not None
        torch.testing.assert_close(a.float(), b, rtol=1e-2, atol=2e-2)


def test_several_big_models_give_one_list_of_taps() -> None:
    torch.manual_seed(1)
    other, views = TinyBig().eval(), digit_views(80)
    bank = compute_bank([trained_big_model(), other], views, BankSettings(width=16))
    labels = [tap.label for tap in bank.taps]
    assert labels == ["features.1", "features.5", "classifier.2", "logits"] + [
        f"1:{name}" for name in ("features.1", "features.5", "classifier.2", "logits")
    ]
    single = compute_bank([other], views, BankSettings(width=16))
    assert torch.equal(bank.features[:, 4:], single.features)
    with torch.no_grad():
        images = rows(views)
        mean = (trained_big_model()(images).softmax(1) + other(images).softmax(1)) / 2
    torch.testing.assert_close(bank.logits.float().softmax(1), mean, rtol=1e-2, atol=1e-2)


def test_the_logits_of_one_model_are_unchanged() -> None:
    z = torch.randn(3, 4)
    assert mean_logits([z]) is z


def test_freely_drawn_views_give_a_bank_without_rows() -> None:
    views = digit_views(100, views=0)
    bank = compute_bank([trained_big_model()], views, BankSettings(width=16, grid=2))
    assert bank.features.shape == (0, 4, 16)
    assert bank.classes == 10
    fixed = compute_bank([trained_big_model()], digit_views(100, views=1), BankSettings(width=16, grid=2))
    for a, b in zip(bank.projections, fixed.projections, strict=True):
        torch.testing.assert_close(a.mean, b.mean)


def test_a_bank_without_its_rows_does_not_keep_their_memory() -> None:
    bank = compute_bank([trained_big_model()], digit_views(100), BankSettings(width=16, grid=2))
    tensors = bank.without_rows().row_tensors()
    assert set(tensors) == {"features", "logits", "cells"}
    assert all(tensor.untyped_storage().nbytes() == 0 for tensor in tensors.values())


def test_progress_reaches_all_rows() -> None:
    calls: list[tuple[int, int]] = []
    compute_bank(
        [trained_big_model()],
        digit_views(50),
        BankSettings(width=8),
        batch_size=30,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (100, 100)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_huge_features_do_not_overflow_half_precision() -> None:
    class LargeLogits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1)) * 1e6

    bank = compute_bank([LargeLogits()], digit_views(30, 1), BankSettings(taps=("layer",), width=16))
    assert all(t.isfinite().all() for t in (bank.features, bank.logits))


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize("views", [0, 2])
def test_parts_with_a_common_survey_join_to_the_whole_bank(parts: int, views: int) -> None:
    data, settings = digit_views(150, views), BankSettings(width=24, grid=2)
    whole = compute_bank([trained_big_model()], data, settings)

    def builder(number: int) -> BankBuilder:
        return BankBuilder([trained_big_model()], data, settings, batch_size=40, part=(number, parts))

    surveys = []
    for number in range(parts):
        with builder(number) as of_part:
            surveys.append(Survey.from_tensors(of_part.survey().tensors()))
    made = []
    for number in range(parts):
        with builder(number) as of_part:
            made.append(of_part.bank(merge_surveys(surveys)))
    rows_of_parts = [part.row_tensors() for part in made]
    joined = replace(made[0], **{n: torch.cat([rows[n] for rows in rows_of_parts]) for n in rows_of_parts[0]})
    assert joined.meta()["taps"] == whole.meta()["taps"]
    # On some CPUs the rounding of a convolution depends on the batch size.
    assert joined.fisher == pytest.approx(whole.fisher, rel=1e-6)
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(joined.tensors()[name], tensor, rtol=1e-2, atol=1e-2, msg=name)


def test_a_part_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="part 1 of 9 of a bank of 4 rows is empty"):
        BankBuilder([trained_big_model()], digit_views(4, 1), BankSettings(width=8), part=(0, 9))
