"""Text from an elastic model: decoding for many callers at once, each at its own size."""
