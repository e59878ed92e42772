"""Operating points in an artifact: with their basis alone, and damage is named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acip_core.artifacts.coding import ADAPTERS, CODING, MOMENTS, read_coding
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import ArtifactError
from acip_core.model.coding_moments import read_coding_moments
from acip_core.progress import finish


def test_operating_points_stay_with_their_basis(coded_folders: tuple[str, Path], tmp_path: Path):
    folder = tmp_path / "artifact"
    shutil.copytree(coded_folders[1], folder)
    artifact = read_artifact(folder)
    write_artifact(artifact, folder)
    assert read_coding(folder, artifact.basis) is not None
    other = {name: replace(moment, scale=moment.scale * 2) for name, moment in artifact.basis.items()}
    write_artifact(replace(artifact, basis=other), folder)
    assert read_coding(folder, other) is None


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (name, damage)
        for name in (CODING, MOMENTS, ADAPTERS)
        for damage in ("cut", "flip", "gone")
        if (name, damage) != (CODING, "gone")  # such an artifact has directions alone
    ],
)
def test_damage_is_named(coded_folders: tuple[str, Path], tmp_path: Path, name: str, damage: str):
    folder = tmp_path / "artifact"
    shutil.copytree(coded_folders[1], folder)
    content = bytearray((folder / name).read_bytes())
    (folder / name).unlink()
    if damage == "flip":
        content[len(content) // 2] ^= 4
    if damage != "gone":
        (folder / name).write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    with pytest.raises(ArtifactError, match=name):
        finish(open_model(coded_folders[0], folder))


def test_moments_that_are_not_finite_are_refused(coded_folders: tuple[str, Path], tmp_path: Path):
    tensors = load_file(coded_folders[1] / MOMENTS)
    with safe_open(coded_folders[1] / MOMENTS, "pt") as file:
        metadata = {k: v for k, v in file.metadata().items() if k != "sha256"}
    name = next(key for key in tensors if key.endswith(".gradients.scale"))
    tensors[name][0] = torch.nan
    save_file(tensors, tmp_path / "broken.safetensors", metadata)
    with pytest.raises(ValueError, match="not finite"):
        read_coding_moments(tmp_path / "broken.safetensors", read_artifact(coded_folders[1]).basis)
