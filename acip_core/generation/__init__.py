"""Text from an elastic model: decoding for many callers at once, each at a size of their own."""
