"""A score map with all that belongs to it as a folder: written, read, loaded, exported, described."""
