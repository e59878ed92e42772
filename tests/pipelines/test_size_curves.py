"""Curves measured anew: a killed run continues on the same text, and on no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from acip_core.pipelines.precompute import precompute
from acip_core.pipelines.recipes import PrecomputeConfig
from acip_core.pipelines.size_curves import measure_curves
from acip_core.progress import Progress, finish


@pytest.mark.parametrize("edited", [False, True], ids=["the same", "edited"])
def test_points_of_a_killed_run_are_of_its_text_alone(
    model: str, recipe: PrecomputeConfig, text: str, tmp_path: Path, edited: bool
) -> None:
    def kill(step: Progress) -> None:
        if step.stage.startswith("comparing"):
            raise KeyboardInterrupt

    quick = replace(recipe, adapters=None, refining=None, comparisons=False)
    artifact = finish(precompute(model, quick, tmp_path / "out"))
    with pytest.raises(KeyboardInterrupt):
        finish(measure_curves(model, artifact), kill)
    if edited:
        Path(text).write_text(Path(text).read_text().replace("e", "E"))
    stages: list[str] = []
    finish(measure_curves(model, artifact), lambda step: stages.append(step.stage))
    assert any(stage.startswith("measuring") for stage in stages) == edited
