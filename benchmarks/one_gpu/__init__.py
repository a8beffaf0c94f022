"""Whole data sets on one GPU, without Ray: ``python -m benchmarks.one_gpu``."""
