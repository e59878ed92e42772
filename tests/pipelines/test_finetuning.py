"""Fine-tuning at a size: it helps there, keeps what was measured before, and survives being killed."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.artifacts.loading import open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import AcipError, ArtifactError, CorpusError, SizeError
from acip_core.pipelines.finetuning import FinetuneConfig, finetune
from acip_core.pipelines.precompute import PrecomputeConfig, precompute
from acip_core.progress import Progress, finish
from acip_core.training.adapters import AdapterConfig

pytestmark = pytest.mark.usefixtures("exact")

WORDS = "a slow red fox sees nine old dogs near some quiet river and then runs home".split()  # noqa: SIM905


def write_text(path: Path, seed: int) -> str:
    source = random.Random(seed)
    path.write_text("\n\n".join(" ".join(source.choices(WORDS, k=14)) for _ in range(80)), encoding="utf-8")
    return str(path)


@pytest.fixture(params=[True, False], ids=["adapters", "none yet"])
def start(request: pytest.FixtureRequest, model: str, tmp_path: Path) -> Path:
    adapters = AdapterConfig(rank=2, alpha=4, steps=6, smallest=0.4) if request.param else None
    recipe = PrecomputeConfig(
        corpora=(write_text(tmp_path / "first.txt", 1),), window=32, moment_windows=4, score_windows=4, basis_rank=16,
        adapters=adapters, curve_windows=3, ratios=(1.0, 0.6), comparisons=False, examples=(), refining=None,
        codes=None, knowledge=False,
    )  # fmt: skip
    return finish(precompute(model, recipe, tmp_path / "start"))


def tuning(tmp_path: Path) -> FinetuneConfig:
    data = write_text(tmp_path / "second.txt", 2)
    return FinetuneConfig(0.6, (data,), 40, 1, 1e-2, 0.0, window=32, curve_windows=3, rank=2)


def test_it_helps_and_says_what_it_did_at_every_size(model: str, start: Path, tmp_path: Path) -> None:
    wanted = tuning(tmp_path)
    folder, before, after = finish(finetune(model, wanted, start, tmp_path / "tuned"))
    old, new = read_artifact(start), read_artifact(folder)
    assert [curve.corpus for curve in after] == [wanted.data[0], *old.recipe["corpora"]]
    assert {curve.corpus for curve in before} == {curve.corpus for curve in after}
    worse = next(curve for curve in before if curve.corpus == wanted.data[0]).points[1]
    better = next(point for point in after[0].points if abs(point.ratio - worse.ratio) < 0.01)
    assert better.ratio == pytest.approx(0.6, abs=0.01) and better.perplexity < 0.98 * worse.perplexity
    assert {1.0, 0.9, 0.8, 0.7, 0.6} <= {round(point.ratio, 1) for point in after[0].points}
    assert after[0].points[0].perplexity == pytest.approx(after[0].base_perplexity)
    assert all(torch.equal(old.scores[name], new.scores[name]) for name in old.scores)
    loaded = finish(open_model(model, folder))
    assert loaded.elastic.set_size(0.6).ratio == pytest.approx(0.6, abs=0.01)
    assert new.recipe["finetuned"]["ratio"] == 0.6 and len(new.history["finetune.loss"]) == 40


def test_a_killed_run_ends_like_one_that_was_not(model: str, start: Path, tmp_path: Path) -> None:
    wanted = tuning(tmp_path)

    def kill(step: Progress) -> None:
        if step.stage.endswith(" adapters") and step.done == 20:
            raise KeyboardInterrupt

    finish(finetune(model, wanted, start, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        finish(finetune(model, wanted, start, tmp_path / "killed"), kill)
    assert not (tmp_path / "killed").exists()
    steps: list[Progress] = []
    finish(finetune(model, wanted, start, tmp_path / "killed"), steps.append)
    assert min(step.done for step in steps if step.stage.endswith(" adapters")) >= 20
    whole, killed = read_artifact(tmp_path / "whole").adapters, read_artifact(tmp_path / "killed").adapters
    assert whole is not None and killed is not None
    assert all(torch.equal(whole[name].b, killed[name].b) for name in whole)


@pytest.mark.parametrize("start", [False], indirect=True)
def test_points_of_another_artifact_are_not_taken_over(model: str, start: Path, tmp_path: Path) -> None:
    def kill(step: Progress) -> None:
        if "tuned at" in step.stage and step.done > 3:  # the first point, three windows, was kept
            raise KeyboardInterrupt

    wanted = replace(tuning(tmp_path), steps=2)
    artifact = read_artifact(start)
    other = {name: scores.flip(0) for name, scores in artifact.scores.items()}
    write_artifact(replace(artifact, scores=other), tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        finish(finetune(model, wanted, start, tmp_path / "out"), kill)
    steps: list[Progress] = []
    finish(finetune(model, wanted, tmp_path / "other", tmp_path / "out"), steps.append)
    assert min(step.done for step in steps if "tuned at" in step.stage) == 1


@pytest.mark.parametrize("start", [True], indirect=True)
@pytest.mark.parametrize(
    ("change", "error"),
    [({"ratio": 1.0}, SizeError), ({"ratio": 0.01}, SizeError), ({"ratio": float("nan")}, SizeError),
     ({"data": ("/nowhere.txt",)}, CorpusError), ({"curve_windows": 9999}, CorpusError)],
)  # fmt: skip
def test_mistakes_are_said_before_the_training(
    model: str, start: Path, tmp_path: Path, change: dict, error: type[AcipError]
) -> None:
    with pytest.raises(error):
        finish(finetune(model, replace(tuning(tmp_path), **change), start, tmp_path / "out"), fail_in_training)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ArtifactError, match="other files"):
        finish(finetune(model, tuning(tmp_path), start, tmp_path / "full"), fail_in_training)


def fail_in_training(step: Progress) -> None:
    assert not step.stage.endswith(" adapters")
