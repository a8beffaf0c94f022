"""Settings of a data set."""

from dataclasses import dataclass
from typing import Literal

from tkd_search.fields import check_bounds, setting
from tkd_search.models.model_settings import check_normalisation

DatasetName = Literal["digits", "mnist", "cifar10", "cifar100", "tinyimagenet", "imagefolder", "table", "hf"]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images, how they are split, and how they are augmented."""

    name: DatasetName = setting("digits", doc="data set", searchable=False)
    path: str | None = setting(
        None,
        doc="folder of the data set, or a table's .csv or .parquet file, also on s3:// or gs://; for hf also "
        "a name on the hub; digits needs none",
        searchable=False,
    )
    unlabelled: str | None = setting(
        None,
        doc="folder (with any subfolders) or table of training images without labels; the student learns F's "
        "answers to them",
        searchable=False,
    )
    download: bool = setting(False, doc="let torchvision fetch the data set into path", searchable=False)
    image_column: str = setting(
        "image", doc="column of a table: paths relative to it, or encoded images", searchable=False
    )
    label_column: str = setting("label", doc="column of a table: texts or whole numbers", searchable=False)
    train_split: str | None = setting(None, doc="split of hf; default: train", searchable=False)
    validation_split: str | None = setting(
        None, doc="split of hf; default: validation, val, valid or dev where there is one", searchable=False
    )
    test_split: str | None = setting(
        None, doc="split of hf; default: test where there is one", searchable=False
    )
    size: int | None = setting(
        None,
        ge=4,
        doc="side in pixels of the stored images, which are centre squares; default: the size of the images",
        searchable=False,
    )
    validation: float = setting(
        0.2, gt=0, lt=1, doc="share of the training images held out for validation", searchable=False
    )
    test: float = setting(
        0.2, gt=0, lt=1, doc="share held out for test where the set has no test part", searchable=False
    )
    split_seed: int = setting(0, ge=0, doc="seed of the splits", searchable=False)
    train_limit: int | None = setting(
        None,
        ge=1,
        doc="distil on this many training images, class-balanced; a big model trained here sees all of them",
        searchable=False,
    )
    limit_seed: int | None = setting(
        None, ge=0, doc="which images train_limit draws; default: split_seed", searchable=False
    )
    sampling: Literal["uniform", "balanced"] = setting(
        "uniform",
        doc="images of an epoch: uniform takes each once; balanced draws as many, all classes equally likely",
        searchable=False,
    )
    augment: Literal["auto", "none", "shift", "crop_flip", "resized_crop"] = setting(
        "auto",
        doc="augmentation; auto: shift for digits and mnist, crop_flip for the others",
        searchable=False,
    )
    randaugment: int = setting(
        0, ge=0, le=4, doc="RandAugment's operations per view, at magnitude 9; 0 = off", searchable=False
    )
    erasing: float = setting(
        0.0, ge=0, le=1, doc="share of the views in which a box has the mean colour", searchable=False
    )
    views: int = setting(
        4,
        ge=0,
        le=64,
        doc="fixed augmented views of every training image (one without augmentation); 0: fresh views in "
        "every epoch, and F runs in every step",
        searchable=False,
    )
    on_error: Literal["fail", "skip"] = setting(
        "fail",
        doc="images that cannot be read: fail names them; skip leaves them out, at most 1 % of all",
        searchable=False,
    )
    memory_budget_mb: int = setting(
        4096,
        ge=16,
        doc="decoded images up to this are held in memory, more in a file on the disk",
        searchable=False,
    )
    disk_budget_gb: float | None = setting(
        None,
        ge=0,
        doc="decoded images above this are decoded in every epoch instead of kept on the disk; default: half "
        "of the free disk of the machine's cache",
        searchable=False,
    )

    mean: tuple[float, ...] | None = setting(
        None,
        doc="mean that images are normalised by, per plane, of pixels in [0, 1]; default: measured",
        searchable=False,
    )
    std: tuple[float, ...] | None = setting(
        None, doc="deviation, as mean; default: measured", searchable=False
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        check_normalisation(self.mean, self.std)
