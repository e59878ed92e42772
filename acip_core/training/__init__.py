"""What gradient runs share, and the adapters that are trained for all sizes at once."""
