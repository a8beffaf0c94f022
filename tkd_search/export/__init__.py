"""Files that ship: writing students, ONNX, int8, model cards, loading them back and scoring them."""

from tkd_search.export.copy_student import copy_student
from tkd_search.export.load_student import load
from tkd_search.export.students import Exported, export_student, write_student

__all__ = ["Exported", "copy_student", "export_student", "load", "write_student"]
