"""The examples run as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples import smallest_size_that_still_knows as example


@pytest.mark.real
def test_smallest_size_that_still_knows(default_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example.main()
    header, *rows = capsys.readouterr().out.splitlines()
    assert "known down to" in header and len(rows) == len(example.FACTS)
    sizes = {row.split("  ")[0]: int(re.search(r"(\d+) %$", row)[1]) for row in rows if row.endswith("%")}  # type: ignore[index]
    assert 30 <= sizes["The capital of Germany is called"] <= 90
