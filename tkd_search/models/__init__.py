"""Big models and students by name, their size, and safe loading of weights.

The functions are imported on first use, because importing torchvision takes over a second.
"""

from typing import TYPE_CHECKING

from tkd_search.lazy import importer

if TYPE_CHECKING:
    from tkd_search.models.build import build_big_model
    from tkd_search.models.size import model_bytes, model_parameters
    from tkd_search.models.student import Student
    from tkd_search.models.student_architecture import build_student, cut_student
    from tkd_search.models.weights import save_weights

__all__ = [
    "Student",
    "build_big_model",
    "build_student",
    "cut_student",
    "model_bytes",
    "model_parameters",
    "save_weights",
]

__getattr__ = importer(
    __name__,
    {
        "build_big_model": "build",
        **dict.fromkeys(("build_student", "cut_student"), "student_architecture"),
        "Student": "student",
        **dict.fromkeys(("model_bytes", "model_parameters"), "size"),
        "save_weights": "weights",
    },
)
