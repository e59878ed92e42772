"""A tiny model and its artifact in files, and the model of the Python API that is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from acip_core import AcipModel
from acip_core.artifacts.writer import write_artifact
from tests.support.tiny import tiny_artifact, tiny_base


@pytest.fixture
def files(cache: Path, tmp_path: Path) -> tuple[str, Path]:
    """A model's folder and its artifact's."""
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny-llama")
    base.tokenizer.save_pretrained(tmp_path / "tiny-llama")
    write_artifact(tiny_artifact(base), tmp_path / "artifact")
    return str(tmp_path / "tiny-llama"), tmp_path / "artifact"


@pytest.fixture
def model(files: tuple[str, Path]) -> AcipModel:
    return AcipModel.from_pretrained(files[0], artifact=files[1])
