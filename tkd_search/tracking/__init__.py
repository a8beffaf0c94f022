"""A run's event log, and what is derived from it: the search's state and MLflow.

Importing the package brings neither MLflow nor a plotting library.
"""

from tkd_search.tracking.mlflow.mlflow_tracker import MlflowTracker
from tkd_search.tracking.tracker import Leftover, Tracker, open_tracker
from tkd_search.tracking.uri import StoreIds

__all__ = [
    "Leftover",
    "MlflowTracker",
    "StoreIds",
    "Tracker",
    "open_tracker",
]
