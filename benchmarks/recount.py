"""`python -m benchmarks.recount`: the bytes in the default model's artifact, counted again; nothing is measured."""

from __future__ import annotations

from dataclasses import replace

from acip_core.artifacts.comparison import read_comparison, write_comparison
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.writer import rewrite_curves
from acip_core.progress import finish


def main() -> None:
    """Write them into the artifact."""
    loaded = finish(open_model())
    folder = loaded.folder
    rewrite_curves(loaded.artifact.curves, folder)
    if (comparison := read_comparison(folder)) is not None:
        planner = loaded.elastic.planner
        results = [replace(r, bytes=planner.bytes_of(r.parameters)) for r in comparison.results]
        write_comparison(replace(comparison, results=tuple(results)), folder)


if __name__ == "__main__":
    main()
