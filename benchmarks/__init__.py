"""Measured figures: `python -m benchmarks` runs them all and refreshes the documents."""

import acip_core  # noqa: F401  # first: it decides what libraries report, which they read when they are imported
