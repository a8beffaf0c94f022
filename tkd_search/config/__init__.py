"""Experiment files: YAML to a checked tree, distributions, and plain settings."""
