"""The offline run from its two ends: a model folder and a text file in, an artifact out, killed or not."""

from __future__ import annotations

import math
import random
import string
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core import adapters as adapters_module
from acip_core.adapters import AdapterSettings
from acip_core.artifact import Artifact, read_artifact
from acip_core.corpus import documents, token_windows
from acip_core.errors import CorpusError
from acip_core.loading import open_model
from acip_core.precompute import Recipe, precompute
from acip_core.progress import Progress, finish
from tests.tiny import tiny_base


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters_module, "_CHECKPOINT_SECONDS", 0)


@pytest.fixture
def model(cache: Path, tmp_path: Path) -> str:
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny")
    base.tokenizer.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.fixture
def text(tmp_path: Path) -> str:
    source = random.Random(0)
    lines = ["".join(source.choices(string.ascii_lowercase + " ", k=60)) for _ in range(60)]
    (tmp_path / "text.txt").write_text("\n\n".join(lines), encoding="utf-8")
    return str(tmp_path / "text.txt")


@pytest.fixture
def recipe(text: str) -> Recipe:
    return Recipe(
        corpora=(text,),
        window=32,
        moment_windows=4,
        score_windows=4,
        basis_rank=16,
        adapters=AdapterSettings(rank=2, alpha=4, steps=6, smallest=0.4),
        curve_windows=3,
        ratios=(1.0, 0.6),
    )


def same(one: Artifact, other: Artifact) -> bool:
    assert one.adapters is not None and other.adapters is not None
    tensors = [(one.scores[name], other.scores[name]) for name in one.scores]
    tensors += [(one.adapters[name].b, other.adapters[name].b) for name in one.adapters]
    tensors += [(one.history[name], other.history[name]) for name in one.history]
    return one.curves == other.curves and all(torch.equal(a, b) for a, b in tensors)


def test_whole_run(model: str, recipe: Recipe, text: str, tmp_path: Path) -> None:
    stages: list[Progress] = []
    folder = finish(precompute(model, recipe, tmp_path / "out"), stages.append)
    artifact = read_artifact(folder)
    methods = [curve.method for curve in artifact.curves]
    assert methods == ["fisher+adapters", "fisher", "svd-llm", "svd-magnitude"]
    assert all(1 <= step.done <= step.total or step.done == 0 for step in stages)
    assert {"scoring", "training adapters"} <= {step.stage for step in stages}

    base = tiny_base()
    windows = token_windows(base.tokenizer, documents(text, "held-out"), 32, 3)
    with torch.no_grad():
        losses = [base.model(w[None], labels=w[None]).loss.item() for w in windows]
    expected = math.exp(sum(losses) / len(losses))
    for curve in artifact.curves:
        assert curve.tokens == 3 * 31
        assert curve.points[0].ratio == 1.0
        assert curve.points[0].perplexity == curve.base_perplexity == pytest.approx(expected, rel=1e-5)

    loaded = finish(open_model(model, folder))
    assert loaded.note == "" and loaded.elastic.set_size(0.6).ratio == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("stage", ["scoring", "training adapters", "measuring fisher+adapters", "measuring svd-llm"])
def test_a_killed_run_continues_to_the_same_artifact(model: str, recipe: Recipe, tmp_path: Path, stage: str) -> None:
    def kill(step: Progress) -> None:
        if step.stage.startswith(stage) and step.done >= 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        finish(precompute(model, recipe, out), kill)
    assert not out.exists()
    continued: list[Progress] = []
    finish(precompute(model, recipe, out), continued.append)
    assert stage == "scoring" or "scoring" not in {step.stage for step in continued}
    whole = finish(precompute(model, recipe, tmp_path / "whole"))
    assert same(read_artifact(out), read_artifact(whole))


def test_another_recipe_does_not_continue_it(model: str, recipe: Recipe, tmp_path: Path) -> None:
    finish(precompute(model, replace(recipe, comparisons=False), tmp_path / "one"))
    stages: list[Progress] = []
    finish(precompute(model, replace(recipe, score_windows=3, comparisons=False), tmp_path / "two"), stages.append)
    assert "scoring" in {step.stage for step in stages}


def test_too_little_text_is_said_before_anything_is_computed(model: str, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("\n\n".join(f"Line {i}." for i in range(30)))
    stages: list[Progress] = []
    with pytest.raises(CorpusError, match="more text"):
        finish(precompute(model, replace(recipe, corpora=(str(tmp_path / "short.txt"),)), None), stages.append)
    assert {step.stage for step in stages} <= {"loading the model"}
