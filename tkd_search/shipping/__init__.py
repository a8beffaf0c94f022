"""Students that leave the house: files, loading them back, ONNX, int8, model cards, and scoring them.

``tkd_search.export`` is the short list of what others call.
"""
