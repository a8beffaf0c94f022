"""Stores of images and prepared bundles: reading returns what was written."""

import dataclasses
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data import writers
from tkd_search.data import (
    AugmentedViews,
    DataBundle,
    DataSettings,
    ImageStore,
    decode,
    load_data,
    plain_batches,
)
from tkd_search.data.image_files import DecodedStore, FolderStore
from tkd_search.data.prepared_files import load_prepared, save_prepared
from tkd_search.errors import UserError

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
