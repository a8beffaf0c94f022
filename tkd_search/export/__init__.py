"""A student's folder: its files and model card are written, checked, scored and loaded back."""

from tkd_search.export.copy_student import copy_student
from tkd_search.export.load_student import load
from tkd_search.export.students import Exported, export_student, write_student

__all__ = ["Exported", "copy_student", "export_student", "load", "write_student"]
