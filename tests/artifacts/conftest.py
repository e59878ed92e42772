"""An artifact of a tiny model, and a copy of it that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from acip_core.artifacts.artifact import Artifact
from acip_core.artifacts.writer import write_artifact
from tests.support.tiny import tiny_artifact, tiny_base


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    folder = tmp_path_factory.mktemp("artifact") / "tiny"
    artifact = tiny_artifact(tiny_base())
    write_artifact(artifact, folder)
    return artifact, folder


@pytest.fixture
def copy(written: tuple[Artifact, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[1], tmp_path / "copy"))
