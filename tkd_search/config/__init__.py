"""Experiment files: from YAML to a checked tree with distributions, and to plain settings."""
