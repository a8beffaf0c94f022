"""Recorded learning curves, a black box fitted on them, and searches replayed in virtual time."""
