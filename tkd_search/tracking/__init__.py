"""A run's event log, and what is derived from it: the search's state and MLflow.

Importing the package brings neither MLflow nor a plotting library.
"""

from tkd_search.files import DiskFullError
from tkd_search.results.summary import read_summary, write_summary
from tkd_search.tracking.mlflow.mlflow_tracker import MlflowTracker
from tkd_search.tracking.tracker import Leftover, Tracker, open_tracker
from tkd_search.tracking.uri import StoreIds

__all__ = [
    "DiskFullError",
    "Leftover",
    "MlflowTracker",
    "StoreIds",
    "Tracker",
    "open_tracker",
    "read_summary",
    "write_summary",
]
