"""Windows never exceed the positions that a model has, whatever its family calls them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.artifacts.reader import read_artifact
from acip_core.data.corpus import corpus_windows
from acip_core.evaluation.perplexity import measure_perplexity
from acip_core.model.context import context_length, fitting_window
from acip_core.pipelines.precompute import precompute
from acip_core.pipelines.recipes import QUICK
from acip_core.progress import finish
from tests.support.tiny import FAMILIES, save, tiny_base


@pytest.mark.parametrize("family", FAMILIES)
def test_text_as_long_as_the_context_can_be_read(family: str) -> None:
    model = tiny_base(family).model
    length = fitting_window(model, 4096)
    assert length == 256 == context_length(model.config)
    *_, read = measure_perplexity(model, torch.randint(3, 100, (1, length)))
    assert read.tokens == 255


def test_a_run_whose_windows_are_longer_than_the_context_takes_shorter_ones(cache: Path, tmp_path: Path) -> None:
    base = tiny_base("gpt2")  # 256 learned positions, where QUICK's windows have 512 tokens
    save(base, tmp_path / "tiny-gpt2")
    texts = [f"document {i} of many, " + "which say much the same of little, " * 8 for i in range(400)]
    (tmp_path / "own.txt").write_text("\n\n".join(texts))
    recipe = replace(QUICK, corpora=(str(tmp_path / "own.txt"),), moment_windows=2, score_windows=2, curve_windows=2)
    recipe = replace(recipe, ratios=(1.0, 0.6), stages=(), examples=())
    folder = finish(precompute(str(tmp_path / "tiny-gpt2"), recipe, tmp_path / "artifact"))
    read = read_artifact(folder)
    assert read.recipe["window"] == 256 and read.curves[0].tokens == 2 * 255
    assert read.recipe["framing"] == {"start": [], "between": ["</s>"]}
    assert corpus_windows(base.tokenizer, recipe.corpora[0], "held-out", 256).shape[1] == 256
