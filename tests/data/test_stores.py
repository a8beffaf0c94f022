"""Streamed folders, prepared bundles and banks: reading returns what was written."""

import dataclasses
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.data import writers
from tkd_search.data import (
    AugmentedViews,
    DataBundle,
    DataSettings,
    ImageStore,
    bank_files,
    decode,
    load_data,
    plain_batches,
    scan_images,
)
from tkd_search.data.bank_files import BANK_FILE, bank_key, load_bank, save_bank, write_bank
from tkd_search.data.image_files import DecodedStore, FolderStore
from tkd_search.data.prepared_files import load_prepared, save_prepared
from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.bank_builder import BankBuilder
from tkd_search.distill.method_settings import BankSettings
from tkd_search.errors import UserError
from tkd_search.models import build_big_model
from tkd_search.models.model_settings import BigModelSettings
from tkd_search.storage.remote_folders import MANIFEST

COUNT = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("images")
    writers.write_image_folder(place, {"train": COUNT, "test": 9}, size=(64, 64))
    return place


@pytest.fixture(scope="module")
def loaded(root: Path) -> DataBundle:
    return load_data(DataSettings(name="imagefolder", path=str(root)))


@pytest.fixture(scope="module")
def streamed(root: Path, loaded: DataBundle) -> DataBundle:
    # At 1,600 pixels a side the images exceed the budget; mean and std are given, so nothing is decoded yet.
    settings = DataSettings(
        name="imagefolder",
        path=str(root),
        memory_budget_mb=16,
        disk_budget_gb=0,
        size=1600,
        mean=loaded.mean,
        std=loaded.std,
    )
    bundle = load_data(settings)
    stores = {
        part: dataclasses.replace(split, images=dataclasses.replace(split.images, size=64))
        for part, split in bundle.splits().items()
    }
    return dataclasses.replace(bundle, **stores)


@pytest.fixture(scope="module")
def decoded(root: Path, loaded: DataBundle) -> DataBundle:
    """The images in a file on the disk: nothing fits into a memory of 0 MB, which no user may set."""
    settings = DataSettings(name="imagefolder", path=str(root), mean=loaded.mean, std=loaded.std)
    object.__setattr__(settings, "memory_budget_mb", 0)
    return load_data(settings)


@pytest.fixture(params=["streamed", "decoded"])
def stored(request: pytest.FixtureRequest) -> DataBundle:
    return request.getfixturevalue(request.param)


class TestStores:
    def test_images_beyond_the_budgets_are_decoded_to_the_disk_or_streamed(
        self, loaded: DataBundle, decoded: DataBundle, streamed: DataBundle
    ) -> None:
        assert isinstance(loaded.train.images, torch.Tensor)
        assert isinstance(decoded.train.images, DecodedStore)
        assert isinstance(streamed.train.images, FolderStore)
        assert isinstance(streamed.train.images, ImageStore)
        assert isinstance(decoded.train.images, ImageStore)

    def test_stored_and_loaded_images_are_the_same(self, loaded: DataBundle, stored: DataBundle) -> None:
        assert (stored.channels, stored.size) == (loaded.channels, loaded.size)
        for part, split in loaded.splits().items():
            other = stored.splits()[part]
            assert torch.equal(split.labels, other.labels)
            index = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
            assert torch.equal(split.images[index], other.images[index])

    def test_views_of_stored_and_loaded_images_are_the_same(
        self, loaded: DataBundle, stored: DataBundle
    ) -> None:
        index = torch.tensor([3, 3, 20, 5])
        view = torch.tensor([0, 2, 1, 3])
        batches = [
            AugmentedViews(data.train, mean=data.mean, std=data.std, views=4, augment="crop_flip").batch(
                index, view
            )
            for data in (loaded, stored)
        ]
        assert torch.equal(*batches)

    def test_plain_batches_of_stored_and_loaded_images_are_the_same(
        self, loaded: DataBundle, stored: DataBundle
    ) -> None:
        for one, other in zip(
            plain_batches(loaded.test, mean=loaded.mean, std=loaded.std, batch_size=10),
            plain_batches(stored.test, mean=loaded.mean, std=loaded.std, batch_size=10),
            strict=True,
        ):
            assert torch.equal(one[0], other[0])

    def test_a_damaged_image_is_named_on_access(self, tmp_path: Path) -> None:
        writers.write_images(tmp_path / "a", 3)
        (tmp_path / "a" / "001.png").write_bytes(b"no image")
        store = FolderStore(str(tmp_path), tuple(f"a/{i:03d}.png" for i in range(3)), 12, 3)
        assert store[torch.tensor([0, 2])].shape == (2, 3, 12, 12)
        with pytest.raises(UserError) as caught:
            store[torch.tensor([0, 1])]
        assert caught.value.where.endswith("001.png")

    def test_a_used_store_can_be_pickled(self, stored: DataBundle) -> None:
        index = torch.arange(20)
        before = stored.train.images[index]
        assert torch.equal(pickle.loads(pickle.dumps(stored.train.images))[index], before)

    def test_several_threads_may_read_at_once(self, stored: DataBundle, loaded: DataBundle) -> None:
        found: list[bool] = []

        def read(seed: int) -> None:
            index = torch.randperm(len(loaded.train), generator=torch.Generator().manual_seed(seed))
            found.append(torch.equal(stored.train.images[index], loaded.train.images[index]))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 4

    def test_the_digest_does_not_depend_on_where_the_images_are(
        self, root: Path, decoded: DataBundle
    ) -> None:
        settings = DataSettings(
            name="imagefolder", path=str(root), disk_budget_gb=0, mean=decoded.mean, std=decoded.std
        )
        object.__setattr__(settings, "memory_budget_mb", 0)
        streamed = load_data(settings)
        assert isinstance(streamed.train.images, FolderStore)
        assert streamed.digest == decoded.digest


class TestDecodingByProcesses:
    @pytest.mark.parametrize("keep", [True, False])
    def test_several_processes_and_one_find_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
    ) -> None:
        writers.write_images(tmp_path, 12)
        (tmp_path / "006.png").write_bytes(b"no image")
        files = [f"{i:03d}.png" for i in range(12)]
        paths = [str(tmp_path / name) for name in files]
        one = scan_images.scan_images(paths, 12, 3, keep=keep)
        monkeypatch.setattr(scan_images, "IMAGES_PER_PROCESS", 4)
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
        several = scan_images.scan_images(paths, 12, 3, keep=keep)
        assert torch.equal(one.content, several.content)
        assert one.broken == several.broken
        assert list(one.broken) == [6]
        assert "006.png: " in one.broken[6]
        if not keep:
            assert one.images is several.images is None
            return
        readable = torch.tensor([i for i in range(12) if i != 6])
        wanted = FolderStore(str(tmp_path), tuple(files), 12, 3)[readable]
        for scanned in (one, several):
            assert scanned.images is not None
            assert torch.equal(scanned.images[readable], wanted)


class TestScanOnce:
    def test_without_a_cache_every_call_scans(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("TKD_CACHE", str(tmp_path / "file" / "cache"))
        writers.write_images(tmp_path, 2)
        scanned = scan_images.scan_once([str(tmp_path / f"{i:03d}.png") for i in range(3)], 12, 3)
        assert set(scanned.broken) == {2}

    def test_unchanged_files_are_decoded_once_and_changed_ones_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writers.write_images(tmp_path, 3)
        (tmp_path / "001.png").write_bytes(b"no image")
        paths = [str(tmp_path / f"{i:03d}.png") for i in range(4)]
        calls = []
        scan = scan_images._scan_in_process

        def counted(job: dict[str, Any]) -> str:
            calls.append(job)
            return scan(job)

        monkeypatch.setattr(scan_images, "_scan_in_process", counted)
        first, again = (scan_images.scan_once(paths, 12, 3) for _ in range(2))
        assert len(calls) == 1
        assert torch.equal(first.content, again.content)
        assert first.broken == again.broken
        assert set(first.broken) == {1, 3}
        shutil.copy(paths[0], paths[1])
        repaired = scan_images.scan_once(paths, 12, 3)
        assert len(calls) == 2
        assert set(repaired.broken) == {3}
        assert repaired.content[0] == repaired.content[1]


class TestScanToTheDisk:
    def scan(self, root: Path) -> scan_images.ScannedImages:
        paths = [str(root / f"{i:03d}.png") for i in range(12)]
        return scan_images.scan_once(paths, 12, 3, disk_budget_gb=1)

    def test_a_scan_that_was_killed_goes_on_after_its_last_chunk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writers.write_images(tmp_path, 12)
        (tmp_path / "006.png").write_bytes(b"no image")
        monkeypatch.setattr(scan_images, "IMAGES_PER_PROCESS", 4)
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
        monkeypatch.setenv("TKD_CACHE", str(tmp_path / "whole"))
        whole = self.scan(tmp_path)
        monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cut"))
        started, run = [], scan_images._scan_in_process

        def killed(job: dict[str, Any]) -> str:
            started.append(job["start"])
            if len(started) == 2:
                raise KeyboardInterrupt
            return run(job)

        monkeypatch.setattr(scan_images, "_scan_in_process", killed)
        with pytest.raises(KeyboardInterrupt):
            self.scan(tmp_path)
        resumed = self.scan(tmp_path)
        # The thread that decodes may have ended another chunk before the interrupt arrived.
        assert started.count(0) == 1
        assert sorted(set(started)) == [0, 4, 8]
        assert torch.equal(resumed.content, whole.content)
        assert resumed.broken == whole.broken
        assert resumed.file is not None
        assert whole.file is not None
        assert resumed.file.read_bytes() == whole.file.read_bytes()
        assert {file.name for file in resumed.file.parent.iterdir()} == {"images.npy", "scan.json", MANIFEST}

    @pytest.mark.parametrize("name", ["images.npy", "scan.json"])
    def test_damaged_decoded_images_are_decoded_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cache"))
        writers.write_images(tmp_path, 12)
        first = self.scan(tmp_path)
        assert first.file is not None
        whole = first.file.read_bytes()
        damaged = first.file.with_name(name)
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
        again = self.scan(tmp_path)
        assert again.file is not None
        assert again.file.read_bytes() == whole
        assert torch.equal(again.content, first.content)

    def test_images_that_exceed_the_budget_or_the_disk_are_not_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writers.write_images(tmp_path, 3)
        monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cache"))
        paths = [str(tmp_path / f"{i:03d}.png") for i in range(3)]
        assert scan_images.scan_once(paths, 12, 3, disk_budget_gb=1e-6).file is None
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=2 * 3 * 12 * 12 * 3 - 1))
        assert scan_images.scan_once(paths, 12, 3, disk_budget_gb=None).file is None
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=2 * 3 * 12 * 12 * 3))
        kept = scan_images.scan_once(paths, 12, 3, disk_budget_gb=None)
        assert kept.file is not None
        assert torch.equal(
            torch.from_numpy(np.load(kept.file)),
            FolderStore(str(tmp_path), ("000.png", "001.png", "002.png"), 12, 3)[torch.arange(3)],
        )


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_scaled_by_its_decoder_to_nearly_the_same_pixels(tmp_path: Path, mode: str) -> None:
    from PIL import Image

    y, x = np.mgrid[:480, :640] / 40.0
    waves = np.stack([np.sin(x), np.sin(y), np.sin(x + y)], -1)
    image = Image.fromarray((127 + 120 * waves).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "large.jpg", quality=95)
    drafted = decode.decode(str(tmp_path / "large.jpg"), 32, 3).astype(int)
    with Image.open(tmp_path / "large.jpg") as opened:
        whole = decode.from_image(opened, 32, 3).astype(int)
    assert np.abs(drafted - whole).mean() < 3


class TestPrepared:
    @pytest.mark.parametrize("kind", ["loaded", "streamed", "decoded"])
    def test_a_bundle_is_read_as_written(
        self, kind: str, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        bundle: DataBundle = request.getfixturevalue(kind)
        save_prepared(bundle, tmp_path / "deep" / "data")
        back = load_prepared(tmp_path / "deep" / "data")
        for name in ("name", "classes", "mean", "std", "digest", "channels", "size", "num_classes"):
            assert getattr(back, name) == getattr(bundle, name), name
        for part, split in bundle.splits().items():
            index = torch.arange(len(split))
            assert torch.equal(back.splits()[part].images[index], split.images[index])
            assert torch.equal(back.splits()[part].labels, split.labels)

    def test_a_machine_without_the_decoded_images_decodes_them_once(
        self, decoded: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone = dataclasses.replace(decoded.train.images, file=tmp_path / "gone.npy")
        train = dataclasses.replace(decoded.train, images=gone)
        save_prepared(dataclasses.replace(decoded, train=train), tmp_path / "data")
        monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cache"))
        for _ in range(2):
            images = load_prepared(tmp_path / "data").train.images
            assert isinstance(images, DecodedStore)
            index = torch.arange(len(images))
            assert torch.equal(images[index], decoded.train.images[index])
        assert len(list((tmp_path / "cache").glob("images-*"))) == 1

    def test_files_are_the_same_as_numpy_writes(self, loaded: DataBundle, tmp_path: Path) -> None:
        save_prepared(loaded, tmp_path / "data")
        for part, split in loaded.splits().items():
            for name, values in (("images", split.images), ("labels", split.labels)):
                np.save(tmp_path / "by_numpy.npy", np.asarray(values))
                written = (tmp_path / "data" / f"{part}_{name}.npy").read_bytes()
                assert written == (tmp_path / "by_numpy.npy").read_bytes()

    def test_images_are_memory_mapped(self, loaded: DataBundle, tmp_path: Path) -> None:
        save_prepared(loaded, tmp_path / "data")
        images = load_prepared(tmp_path / "data").train.images
        assert isinstance(images, torch.Tensor)
        mapped = Path("/proc/self/maps")
        if mapped.exists():
            assert str(tmp_path / "data" / "train_images.npy") in mapped.read_text()

    def test_a_second_save_replaces_the_first(self, loaded: DataBundle, tmp_path: Path) -> None:
        save_prepared(loaded, tmp_path / "data")
        save_prepared(dataclasses.replace(loaded, digest="other"), tmp_path / "data")
        assert load_prepared(tmp_path / "data").digest == "other"
        assert [entry.name for entry in tmp_path.iterdir()] == ["data"]

    @pytest.mark.parametrize("victim", ["bundle.json", "train_images.npy", "test_labels.npy"])
    def test_a_damaged_folder_is_named(self, loaded: DataBundle, tmp_path: Path, victim: str) -> None:
        save_prepared(loaded, tmp_path / "data")
        (tmp_path / "data" / victim).write_bytes(b"rubbish")
        with pytest.raises(UserError, match="data"):
            load_prepared(tmp_path / "data")
        (tmp_path / "data" / victim).unlink()
        with pytest.raises(UserError, match="data"):
            load_prepared(tmp_path / "data")


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


def test_sixteen_bit_grey_images_are_scaled_not_clipped(tmp_path: Path) -> None:
    from PIL import Image

    deep = np.linspace(0, 65535, 144).astype(np.uint16).reshape(12, 12)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    store = FolderStore(str(tmp_path), ("deep.png",), 12, 1)
    assert torch.equal(store[torch.tensor([0])][0, 0], torch.from_numpy((deep >> 8).astype(np.uint8)))


def test_eight_bit_values_in_32_bits_are_not_scaled(tmp_path: Path) -> None:
    from PIL import Image

    values = np.linspace(0, 255, 144).astype(np.int32).reshape(12, 12)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    store = FolderStore(str(tmp_path), ("deep.tif",), 12, 1)
    assert torch.equal(store[torch.tensor([0])][0, 0], torch.from_numpy(values.astype(np.uint8)))


@pytest.mark.parametrize(
    "pixels",
    [
        np.linspace(0, 1, 144, dtype=np.float32),
        np.arange(144, dtype=np.int32) * 1000,
        np.arange(144, dtype=np.int32) - 9,
    ],
)
def test_pixels_without_a_known_white_level_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(pixels.reshape(12, 12)).save(tmp_path / "deep.tif")
    store = FolderStore(str(tmp_path), ("deep.tif",), 12, 1)
    with pytest.raises(UserError, match="8 or 16 bits"):
        store[torch.tensor([0])]
