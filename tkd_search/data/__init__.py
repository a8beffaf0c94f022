"""Data sets → train / validation / test, deterministic augmented views, and the bank on disk."""
