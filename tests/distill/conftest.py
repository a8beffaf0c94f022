"""Hypothesis runs without deadlines, because a busy machine can slow down any test."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
