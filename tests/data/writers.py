"""Writers of small sets of images in the real format of every source."""

import gzip
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def random_images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def balanced(count: int, classes: int) -> np.ndarray:
    return np.arange(count) % classes


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(
    folder: Path, *, zipped: bool = False, train: int = 40, test: int = 20, dot: bool = False
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count, seed in (("train", train, 0), ("t10k", test, 1)):
        for kind, array in (
            ("images-idx3", random_images(count, 28, 28, seed=seed)),
            ("labels-idx1", balanced(count, 10)),
        ):
            name = f"{part}-{kind.replace('-', '.') if dot else kind}-ubyte"
            content = idx(array)
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)


def write_cifar10_python(folder: Path, *, per_batch: int = 20, protocol: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {
            b"batch_label": b"a batch",
            b"labels": balanced(per_batch, 10).tolist(),
            b"data": random_images(per_batch, 3072, seed=number),
            b"filenames": [b"picture.png"] * per_batch,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    meta = {"num_cases_per_batch": per_batch, "label_names": [f"name{i}" for i in range(10)], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))


def write_cifar10_binary(folder: Path, *, per_batch: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        labels = balanced(per_batch, 10).astype(np.uint8)[:, None]
        images = random_images(per_batch, 3072, seed=number)
        (folder / name).write_bytes(np.concatenate([labels, images], axis=1).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"name{i}" for i in range(10)) + "\n")


def write_cifar100_python(folder: Path, *, count: int = 300) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        batch = {
            b"fine_labels": balanced(count, 100).tolist(),
            b"coarse_labels": balanced(count, 20).tolist(),
            b"data": random_images(count, 3072),
        }
        (folder / part).write_bytes(pickle.dumps(batch, 2))
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"n%d" % i for i in range(100)]}, 2))


def write_cifar100_binary(folder: Path, *, count: int = 300) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train.bin", "test.bin"):
        fine = balanced(count, 100).astype(np.uint8)[:, None]
        images = random_images(count, 3072)
        (folder / part).write_bytes(np.concatenate([fine // 5, fine, images], axis=1).tobytes())


def write_images(
    folder: Path,
    count: int,
    *,
    size: tuple[int, int] = (12, 12),
    mode: str = "RGB",
    suffix: str = ".png",
    seed: int = 0,
) -> list[np.ndarray]:
    """PNG (exact) or JPEG files of random pixels; returns the pixels [H, W(, 3)]."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    arrays = list(random_images(count, *shape, seed=seed))
    for number, array in enumerate(arrays):
        Image.fromarray(array, mode).save(folder / f"{number:03d}{suffix}")
    return arrays


def write_image_folder(
    root: Path, parts: dict[str, int], classes: Sequence[str] = ("cat", "dog", "eel"), **how: object
) -> None:
    for part, count in parts.items():
        for number, name in enumerate(classes):
            write_images(root / part / name, count, seed=100 * number + len(part), **how)


def write_tiny_imagenet(root: Path, wnids: Sequence[str], *, train: int = 6, val: int = 3) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    (root / "words.txt").write_text("n001\tgoldfish, Carassius auratus\nn002\tcrane\nn003\tcrane\n")
    lines = []
    for number, wnid in enumerate(wnids):
        write_images(root / "train" / wnid / "images", train, size=(64, 64), suffix=".JPEG", seed=number)
        for count in range(val):
            name = f"val_{number}_{count}.JPEG"
            array = random_images(1, 64, 64, 3, seed=50 + number)[0]
            (root / "val" / "images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / "val" / "images" / name)
            lines.append(f"{name}\t{wnid}\t0\t0\t63\t63")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
