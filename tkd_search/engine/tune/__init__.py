"""Adapters between Ray Tune and the search controller."""
