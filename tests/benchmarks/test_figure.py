"""Figures that are kept say when and on what machine they were measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import figure
from benchmarks.figure import Figure, merge, read, where_and_when


def test_figures_replace_those_of_their_name_and_keep_their_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    assert read(path) == []
    monkeypatch.setattr(figure, "machine", lambda: "a fast one")
    merge(
        path, [Figure("speed", 2.0, "×", 1.5, better="higher"), Figure("memory", 3.0, "GB"), Figure("start", 1.0, "s")]
    )
    monkeypatch.setattr(figure, "machine", lambda: "a slow one")
    merge(path, [Figure("memory", 2.5, "GB", spread=0.1)])
    kept = {measured.figure.name: measured for measured in read(path)}
    assert list(kept) == ["speed", "memory", "start"]
    assert kept["speed"].figure == Figure("speed", 2.0, "×", 1.5, better="higher")
    assert (kept["memory"].figure.value, kept["memory"].machine, kept["speed"].machine) == (
        2.5,
        "a slow one",
        "a fast one",
    )
    day = kept["speed"].date
    said = f"Measured on {day}, on a fast one. memory: measured on {day}, on a slow one."
    assert where_and_when(read(path)) == said
