"""Samplers, which propose the next configuration."""
