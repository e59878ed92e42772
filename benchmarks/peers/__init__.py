"""Other quantizers on the default model: the same weights, calibration text, held-out text and count of bytes.

A file for each method; each yields `Peer`s, sizes of that method. `measure.py` measures them one by one.
"""
