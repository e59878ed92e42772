"""`acip measure`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from acip_core.artifacts.completions import read_completions, write_completions
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from tests.support.commands import run


def test_measure_curve_measures_the_artifacts_primary_curves_again(
    model: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert (
        run(monkeypatch, capsys, "precompute", model, "--quick", "--no-codes", "--corpus", text, "--out", str(out))[0]
        == 0
    )
    made, texts = read_artifact(out), read_completions(out)
    curves = [replace(c, base_perplexity=9.0, points=(replace(c.points[0], perplexity=9.0),)) for c in made.curves]
    other = replace(made.curves[0], method="another")
    write_artifact(replace(made, curves=(*curves, other)), out, lambda place: write_completions(texts, place))
    code, output = run(monkeypatch, capsys, "measure", "curve", model, "--artifact", str(out))
    assert code == 0 and "measuring predicted" in output and "30%" in output, output
    assert read_artifact(out).curves == (*made.curves, other) and read_completions(out) == texts
    write_artifact(replace(made, curves=()), out)
    code, output = run(monkeypatch, capsys, "measure", "curve", model, "--artifact", str(out))
    assert code == 2 and "has no curve to measure" in output
