"""Networks for the classes and images of a data set."""

from collections.abc import Mapping
from typing import Any

from tkd_search.data.bundle import DataBundle
from tkd_search.models.build import load_big_model
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.models.student import Student
from tkd_search.models.student_architecture import build_student
from tkd_search.models.weights import Head


def big_model_for(settings: BigModelSettings, data: DataBundle) -> tuple[Student, Head]:
    """Return what ``load_big_model`` does, with a big model that takes the data set's images."""
    return load_big_model(
        settings, classes=data.num_classes, channels=data.channels, size=data.size, given=data.input
    )


def student_for(
    settings: StudentSettings,
    big_model: BigModelSettings,
    data: DataBundle,
    record: Mapping[str, Any] | None = None,
) -> Student:
    """Return an untrained student that takes the data set's images.

    Args:
        settings: its settings.
        big_model: settings of the big model that a cut is cut from.
        data: the data set.
        record: of a certain cut; see :func:`tkd_search.models.build_student`.

    Raises:
        UserError: the student cannot be built.
    """
    return build_student(
        settings,
        classes=data.num_classes,
        channels=data.channels,
        size=data.size,
        big_model=big_model,
        record=record,
        given=data.input,
    )
