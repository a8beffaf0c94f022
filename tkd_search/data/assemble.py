"""Assembly of a data bundle from raw data: splits, limit, size, statistics, digest."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tkd_search.data.bundle import DataBundle, ImageStore, Split
from tkd_search.data.data_settings import DataSettings
from tkd_search.data.duplicates import content_hashes, duplicates_note
from tkd_search.data.sources.class_names import alike_note
from tkd_search.data.sources.raw_data import RawData
from tkd_search.data.splits import held_out, limited
from tkd_search.errors import UserError
from tkd_search.seeds import child_seed

_CHUNK = 256
_STATISTICS_SAMPLE = 8192
_NAMED_CLASSES = 10


def assemble(raw: RawData, settings: DataSettings) -> DataBundle:
    """Return a bundle: split, resized and limited images with their statistics and digest.

    A set's validation part is its test part where it has none. A part that is still missing is held out of
    the training part, stratified by class. The limit is applied last, so that validation and test do not
    depend on it. Classes with fewer images than parts stay in the training part. Unlabelled images follow the
    training images; neither the splits nor the normalisation depend on them.

    Raises:
        UserError: fewer than two classes, a class without training images, or no image for a part.
    """
    raw = _with_test(raw)
    _check(raw, settings)
    # Where validation is held out after test, test must leave two images of every class.
    keep = 1 + (raw.validation is None)
    whole = _small_classes(raw)
    train, test = _part(raw.train, raw.test, settings.test, settings, "test", whole, keep)
    train, validation = _part(train, raw.validation, settings.validation, settings, "validation", whole)
    _check_parts(validation, test, settings)
    train, validation, test = (_resized(split, settings.size) for split in (train, validation, test))
    measured = {"validation": validation, "test": test}
    unlabelled = {} if raw.unlabelled is None else {"unlabelled": raw.unlabelled}
    notes = (*raw.notes, *alike_note(raw.classes), *_missing_classes_note(raw.classes, measured))
    notes += duplicates_note({"train": train, **unlabelled}, measured)
    # Before the limit: a big model is trained on the whole training part and needs the same normalisation.
    mean, std = _normalisation(train.images, settings)
    if settings.train_limit is not None:
        seed = settings.split_seed if settings.limit_seed is None else settings.limit_seed
        train = train.subset(limited(train.labels, settings.train_limit, child_seed(seed, "limit")))
    if raw.unlabelled is not None:
        train = train.joined(raw.unlabelled)
    parts = (train, validation, test)
    bundle = DataBundle(settings.name, *parts, raw.classes, mean, std, digest="", notes=notes)
    return replace(bundle, digest=digest(bundle))


def statistics(images: ImageStore) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per plane, of pixel values in [0, 1].

    From all images, of more than 8,192 from so many evenly spaced ones, whether they are in memory or not. A
    plane of one value has standard deviation 1.
    """
    count = len(images)
    positions = torch.arange(count)
    if count > _STATISTICS_SAMPLE:
        positions = torch.linspace(0, count - 1, _STATISTICS_SAMPLE).long()
    counts = torch.zeros(int(images[positions[:1]].shape[1]), 256, dtype=torch.int64)
    for chunk in positions.split(_CHUNK):
        for plane, pixels in enumerate(images[chunk].unbind(1)):
            counts[plane] += torch.bincount(pixels.reshape(-1), minlength=256)
    weights = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = weights @ values
    std = (weights @ values.square() - mean.square()).clamp_min(0).sqrt()
    # Normalisation divides by it.
    std = torch.where(std < 1e-3, torch.ones_like(std), std)
    return tuple(mean.tolist()), tuple(std.tolist())


def digest(bundle: DataBundle) -> str:
    """Return a hash of images, labels, class names, mean and std, wherever the images are kept."""
    state = hashlib.blake2b(digest_size=16)
    shape = (bundle.channels, bundle.size)
    state.update(repr((bundle.classes, bundle.mean, bundle.std, shape)).encode())
    for name, split in bundle.splits().items():
        state.update(f"{name}:{len(split)}".encode())
        state.update(np.ascontiguousarray(content_hashes(split)).data)
        state.update(split.labels.contiguous().numpy().data)
    return state.hexdigest()


def resize(images: Tensor, size: int) -> Tensor:
    """Resize uint8 [N, C, H, W] to uint8 [N, C, size, size], bilinear with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images
    made = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK].float()
        scaled = interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False)
        made[start : start + _CHUNK] = scaled.round_().clamp_(0, 255).to(torch.uint8)
    return made


def _normalisation(images: ImageStore, settings: DataSettings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if settings.mean is None or settings.std is None:
        return statistics(images)
    planes = int(images[torch.zeros(1, dtype=torch.int64)].shape[1])
    for name, given in (("mean", settings.mean), ("std", settings.std)):
        if len(given) != planes:
            raise UserError(f"data.{name}", f"{len(given)} value(s)", f"{planes}, one per plane")
    return tuple(settings.mean), tuple(settings.std)


def _resized(split: Split, size: int | None) -> Split:
    if size is None or not isinstance(split.images, Tensor):
        return split
    return replace(split, images=resize(split.images, size))


def _with_test(raw: RawData) -> RawData:
    """Return data whose validation part is the test part where the set has no test part.

    A published validation part is what others report, so it must not decide the search.
    """
    if raw.test is not None or raw.validation is None:
        return raw
    note = (
        f"data: no test part, so the {len(raw.validation):,} images given for validation are the test part; "
        "validation is split from the training images (data.validation)"
    )
    return replace(raw, test=raw.validation, validation=None, notes=(*raw.notes, note))


def _part(
    train: Split,
    given: Split | None,
    share: float,
    settings: DataSettings,
    name: str,
    whole: set[int],
    keep: int = 1,
) -> tuple[Split, Split]:
    if given is not None:
        return train, given
    seed = child_seed(settings.split_seed, name)
    kept, held = held_out(train.labels, share, seed, keep=keep, whole=whole)
    return train.subset(kept), train.subset(held)


def _small_classes(raw: RawData) -> set[int]:
    """Return the labels with fewer training images than there are parts to split them into."""
    parts = 1 + (raw.test is None) + (raw.validation is None)
    counts = torch.bincount(raw.train.labels, minlength=len(raw.classes))
    return set(torch.nonzero(counts < parts)[:, 0].tolist())


def _missing_classes_note(classes: Sequence[str], measured: Mapping[str, Split]) -> tuple[str, ...]:
    """Return a note on classes without images in the parts that measure accuracy; none without any."""
    texts = []
    for part, split in measured.items():
        counts = torch.bincount(split.labels, minlength=len(classes))
        missing = [classes[label] for label in torch.nonzero(counts == 0)[:, 0].tolist()]
        more = f" and {len(missing) - _NAMED_CLASSES} more" if len(missing) > _NAMED_CLASSES else ""
        if missing:
            texts.append(f"of {', '.join(missing[:_NAMED_CLASSES])}{more} in {part}")
    return (f"warning: no images {'; none '.join(texts)}: figures say nothing on them",) if texts else ()


def _where(settings: DataSettings) -> str:
    return f"data.path = {settings.path}" if settings.path else f"data.name = {settings.name}"


def _check(raw: RawData, settings: DataSettings) -> None:
    where = _where(settings)
    if len(raw.classes) < 2:
        raise UserError(where, f"{len(raw.classes)} class(es)", "at least 2 classes")
    counts = torch.bincount(raw.train.labels, minlength=len(raw.classes))
    if int(counts.min()) == 0:
        name = raw.classes[int(counts.argmin())]
        raise UserError(where, f"no training image of class {name!r}", "at least 1 of every class")
    if settings.train_limit is not None and settings.train_limit < len(raw.classes):
        raise UserError(
            "data.train_limit", str(settings.train_limit), f"≥ {len(raw.classes)}, one image per class"
        )


def _check_parts(validation: Split, test: Split, settings: DataSettings) -> None:
    for name, split in (("validation", validation), ("test", test)):
        if not len(split):
            raise UserError(
                _where(settings),
                f"no class with enough images to hold out one for {name}",
                "at least one class with an image for each of train, validation and test",
            )
