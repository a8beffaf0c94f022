"""Accuracy, bytes and latency of students in every number format."""
