"""What a search leaves for people: MLflow through a spool, ``summary.json``, the Pareto report.

The names below are what the rest of the package uses. Importing them brings neither MLflow nor a
plotting library; those wait until something is written.
"""

from tkd_search.files import DiskFullError
from tkd_search.results.summary import read_summary, write_summary
from tkd_search.tracking.mlflow.mlflow_tracker import MlflowTracker
from tkd_search.tracking.tracker import Leftover, NullTracker, Tracker, open_tracker
from tkd_search.tracking.uri import StoreIds

__all__ = [
    "DiskFullError",
    "Leftover",
    "MlflowTracker",
    "NullTracker",
    "StoreIds",
    "Tracker",
    "open_tracker",
    "read_summary",
    "write_summary",
]
