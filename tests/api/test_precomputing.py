"""`acip_core.precompute` with the settings of a quick run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import acip_core
from acip_core import AcipModel
from acip_core.artifacts.completions import read_completions
from acip_core.model.size_planner import MODES
from acip_core.pipelines.recipes import QUICK


def test_precompute_runs_to_the_end(files: tuple[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Line {i} says {i * i} and then {i**5}, no more." * 2 for i in range(700)))
    config = replace(QUICK, corpora=(str(text),), ratios=(1.0, 0.6), examples=("Hello",))
    steps: list[str] = []
    out = acip_core.precompute(
        files[0], config, output_dir=tmp_path / "made", on_progress=lambda step: steps.append(step.stage)
    )
    assert out == tmp_path / "made" and "gradient moments" in steps
    texts = read_completions(out)
    assert [c.mode for c in texts] == list(MODES) and all(c.texts.keys() >= {100} for c in texts)
    model = AcipModel.from_pretrained(files[0], artifact=out, size=0.6, mode="directions")
    assert model.size == pytest.approx(0.6, abs=0.02) and model.set_size(0.5, mode="bits").ratio <= 0.5
