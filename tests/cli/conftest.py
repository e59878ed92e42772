"""A tiny model and a text to precompute with, in a folder that is not this repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from acip_core.pipelines import example_completions
from tests.support.tiny import tiny_base


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts are looked for below the working directory, too, which is not to be this repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path: Path, cache: Path) -> str:
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny [1]")
    base.tokenizer.save_pretrained(tmp_path / "tiny [1]")
    return str(tmp_path / "tiny [1]")


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file to precompute with; the examples are then completed at three sizes, not at 36."""
    monkeypatch.setattr(example_completions, "STRIDE", 30)
    file = tmp_path / "text [b].txt"
    file.write_text("\n\n".join(f"Line {i} says {i * i} and then {i**5}, no more." * 2 for i in range(700)))
    return str(file)
