"""The bank on disk: written batch by batch, resumed after a kill, named by all its inputs."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tkd_search.data import (
    AugmentedViews,
    DataSettings,
    bank_files,
    load_data,
)
from tkd_search.data.bank_files import BANK_FILE, bank_key, load_bank, save_bank, write_bank
from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.bank_builder import BankBuilder
from tkd_search.distill.method_settings import BankSettings
from tkd_search.errors import UserError
from tkd_search.models import build_big_model
from tkd_search.models.model_settings import BigModelSettings


class TestBankStore:
    @pytest.fixture(scope="class")
    def builder(self) -> Iterator[BankBuilder]:
        data = load_data(DataSettings(train_limit=60))
        views = AugmentedViews(data.train, mean=data.mean, std=data.std, views=2, augment="shift")
        torch.manual_seed(0)
        model = build_big_model(BigModelSettings(width=0.125), classes=10, channels=1, size=8)
        with BankBuilder([model], views, BankSettings(width=16, grid=2), batch_size=32) as builder:
            yield builder

    @pytest.fixture(scope="class")
    def bank(self, builder: BankBuilder) -> Bank:
        return builder.bank(builder.survey())

    def assert_same(self, found: Bank, expected: Bank) -> None:
        assert found.meta() == expected.meta()
        assert list(found.tensors()) == list(expected.tensors())
        for name, tensor in expected.tensors().items():
            assert torch.equal(tensor, found.tensors()[name]), name
            assert tensor.dtype == found.tensors()[name].dtype

    def test_a_bank_is_read_as_written(self, bank: Bank, tmp_path: Path) -> None:
        save_bank(bank, tmp_path / "bank")
        self.assert_same(load_bank(tmp_path / "bank"), bank)
        assert set(load_file(tmp_path / "bank" / BANK_FILE)) == set(bank.tensors())

    def test_a_bank_without_rows_is_read_as_written(self, builder: BankBuilder, tmp_path: Path) -> None:
        template = builder.template(builder.survey())
        save_bank(template, tmp_path / "bank")
        self.assert_same(load_bank(tmp_path / "bank"), template)

    @pytest.mark.parametrize("batches", [0, 1, 2, 3])
    def test_a_bank_that_was_killed_goes_on_after_the_rows_that_were_flushed(
        self, builder: BankBuilder, bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
    ) -> None:
        monkeypatch.setattr(bank_files, "SECONDS_BETWEEN", 0.0)
        survey, rows, begun = builder.survey(), builder.rows, []

        def killed(template: Bank, after: int = 0) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
            begun.append(after)
            for number, batch in enumerate(rows(template, after)):
                if len(begun) == 1 and number == batches:
                    raise KeyboardInterrupt
                yield batch

        monkeypatch.setattr(builder, "rows", killed)
        with pytest.raises(KeyboardInterrupt):
            write_bank(builder, tmp_path, survey)
        monkeypatch.setattr(builder, "survey", None)  # a second survey would be an error
        write_bank(builder, tmp_path)
        assert begun == [0, 32 * batches]
        self.assert_same(load_bank(tmp_path), bank)
        assert {file.name for file in tmp_path.iterdir()} == {BANK_FILE, "progress.json"}

    def test_a_bank_is_memory_mapped(self, bank: Bank, tmp_path: Path) -> None:
        save_bank(bank, tmp_path / "bank")
        back = load_bank(tmp_path / "bank")
        maps = Path("/proc/self/maps")
        if maps.exists():
            assert str(tmp_path / "bank" / BANK_FILE) in maps.read_text()
        assert back.features is not None

    @pytest.mark.parametrize("content", [b"rubbish rubbish", None])
    def test_a_damaged_bank_is_named(self, bank: Bank, tmp_path: Path, content: bytes | None) -> None:
        save_bank(bank, tmp_path / "bank")
        file = tmp_path / "bank" / BANK_FILE
        file.write_bytes(content or file.read_bytes()[:-1])
        with pytest.raises(UserError, match="bank"):
            load_bank(tmp_path / "bank")


class TestBankKey:
    def key(self, **changes: object) -> str:
        data = dataclasses.replace(DataSettings(), **changes.pop("data_settings", {}))
        bank = dataclasses.replace(BankSettings(), **changes.pop("bank", {}))
        given = {"data_digest": "d", "model_digests": ["m"], "seed": 0, **changes}
        return bank_key(bank=bank, data=data, **given)

    def test_the_key_is_reproducible_and_a_file_name(self) -> None:
        assert self.key() == self.key()
        assert self.key().isalnum()

    @pytest.mark.parametrize(
        "change",
        [
            {"data_digest": "e"},
            {"model_digests": ["m", "n"]},
            {"seed": 1},
            {"bank": {"width": 8}},
            {"bank": {"taps": ("features.*",)}},
            {"bank": {"grid": 4}},
            {"data_settings": {"views": 2}},
            {"data_settings": {"augment": "none"}},
            {"data_settings": {"randaugment": 2}},
            {"data_settings": {"erasing": 0.25}},
        ],
    )
    def test_every_input_of_a_bank_changes_the_key(self, change: dict[str, object]) -> None:
        assert self.key(**change) != self.key()

    def test_other_settings_do_not_change_the_key(self) -> None:
        assert self.key(data_settings={"augment": "shift"}) == self.key(), "auto means shift for digits"
        assert self.key(data_settings={"path": "/elsewhere", "memory_budget_mb": 99}) == self.key()
        plain = [self.key(data_settings={"augment": "none", "views": views}) for views in (1, 4)]
        assert plain[0] == plain[1], "without augmentation all views are the same"
        erased = [self.key(data_settings={"augment": "none", "erasing": 0.5, "views": v}) for v in (1, 4)]
        assert erased[0] != erased[1]
