"""Writes the event log to MLflow, and reads searches back from it."""
