"""Measured figures: `python -m benchmarks` runs them all and refreshes the documents."""
