"""Spaces, samplers, Pareto fronts, rungs, warm worker groups and the driver of a search."""
