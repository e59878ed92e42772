"""A precompute run that was killed, damaged or kept from writing continues to the same artifact, or says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from acip_core.artifacts.reader import read_artifact
from acip_core.errors import StorageError
from acip_core.pipelines.precompute import PrecomputeConfig, precompute
from acip_core.progress import Progress, finish
from tests.support.artifacts import same
from tests.support.faults import full_disk


def test_two_runs_cannot_write_the_same_artifact(model: str, recipe: PrecomputeConfig, tmp_path: Path) -> None:
    first = precompute(model, recipe, tmp_path / "out")
    while next(first).stage != "scoring":
        pass
    with pytest.raises(StorageError, match=r"Another run is writing .*out; wait"):
        finish(precompute(model, recipe, tmp_path / "out"))
    first.close()
    finish(precompute(model, replace(recipe, adapters=None, comparisons=False), tmp_path / "out"))


@pytest.mark.parametrize(
    "stage",
    ["scoring", "training adapters", "refining adapters", "measuring fisher-envelope+adapters", "measuring svd-llm"],
)
def test_a_killed_run_continues_to_the_same_artifact(
    model: str, recipe: PrecomputeConfig, tmp_path: Path, stage: str
) -> None:
    def kill(step: Progress) -> None:
        if step.stage.startswith(stage) and step.done >= (5 if stage.startswith("measuring") else 2):
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        finish(precompute(model, recipe, out), kill)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "text.txt", "tiny"]
    continued: list[Progress] = []
    finish(precompute(model, recipe, out), continued.append)
    assert stage == "scoring" or "scoring" not in {step.stage for step in continued}
    if stage.startswith("measuring"):  # the first point, three windows, was kept
        assert next(step.done for step in continued if step.stage.startswith(stage)) == 4
    whole = finish(precompute(model, recipe, tmp_path / "whole"))
    assert same(read_artifact(out), read_artifact(whole))


def test_a_run_closed_again_and_again_ends_in_the_same_artifact(
    model: str, recipe: PrecomputeConfig, tmp_path: Path
) -> None:
    out, runs = tmp_path / "out", 0
    while not out.exists():
        runs += 1
        steps = precompute(model, recipe, out)
        for _ in range(24 + 13 * runs):  # every time a little further, never at the border of a stage
            if next(steps, None) is None:
                break
        steps.close()
        assert runs < 20
    assert runs > 4
    assert same(read_artifact(out), read_artifact(finish(precompute(model, recipe, tmp_path / "whole"))))


@pytest.mark.parametrize("damage", [b"", b"no such file", None], ids=["empty", "text", "truncated"])
def test_damaged_work_is_made_again(
    model: str,
    recipe: PrecomputeConfig,
    tmp_path: Path,
    cache: Path,
    damage: bytes | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = replace(recipe, knowledge=True)
    steps = precompute(model, recipe, tmp_path / "out")
    while not next(steps).stage.startswith("measuring svd-magnitude"):
        pass
    steps.close()
    files = [path for path in (cache / "precompute").rglob("*.*") if path.is_file()]
    assert {path.name.partition("-")[0] for path in files} == {
        "basis.safetensors", "scores.safetensors", "adapters.safetensors", "refining.safetensors", "curve",
        "fidelity", "said", "completions.json",
    }  # fmt: skip
    for file in files:
        file.write_bytes(file.read_bytes()[:-9] if damage is None else damage)
    artifact = read_artifact(finish(precompute(model, recipe, tmp_path / "out")))
    assert caplog.text.count("is damaged") == len(files)
    assert same(artifact, read_artifact(finish(precompute(model, recipe, tmp_path / "whole"))))


def test_an_edited_text_file_is_another_run(model: str, recipe: PrecomputeConfig, text: str, tmp_path: Path) -> None:
    def kill(step: Progress) -> None:
        if step.stage.startswith("measuring"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(precompute(model, recipe, tmp_path / "out"), kill)
    content = Path(text).read_text()
    Path(text).write_text(content.replace("e", "E"))
    stages: list[Progress] = []
    finish(precompute(model, recipe, tmp_path / "out"), stages.append)
    assert "scoring" in {step.stage for step in stages}


def test_a_full_disk_is_one_sentence_and_continues_later(model: str, recipe: PrecomputeConfig, tmp_path: Path) -> None:
    stages: list[Progress] = []
    with pytest.raises(StorageError, match=r"basis\.safetensors .*File too large.*ACIP_CACHE"), full_disk():
        finish(precompute(model, recipe, tmp_path / "out"), stages.append)
    with pytest.raises(StorageError, match=r"scores\.safetensors|adapters\.safetensors"), full_disk(15_000):
        finish(precompute(model, recipe, tmp_path / "out"), stages.append)
    assert not (tmp_path / "out").exists()
    assert same(
        read_artifact(finish(precompute(model, recipe, tmp_path / "out"))),
        read_artifact(finish(precompute(model, recipe, tmp_path / "whole"))),
    )


def test_another_recipe_does_not_continue_it(model: str, recipe: PrecomputeConfig, tmp_path: Path) -> None:
    finish(precompute(model, replace(recipe, comparisons=False), tmp_path / "one"))
    stages: list[Progress] = []
    finish(precompute(model, replace(recipe, score_windows=3, comparisons=False), tmp_path / "two"), stages.append)
    assert "scoring" in {step.stage for step in stages}
