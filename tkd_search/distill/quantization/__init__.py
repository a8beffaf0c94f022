"""Simulated rounding of a student's weights and activations during training; plain PyTorch.

``number_format`` names the formats, ``rounding`` holds the arithmetic on tensors, ``targets`` decides which
weights of which layers are rounded, ``simulation`` puts a network into simulated rounding.
``tkd_search.formats`` writes and reads the files with the same arithmetic, so a file computes what the
simulated network computes.
"""
