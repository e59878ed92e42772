"""The longest text of a model, in the words of every family, and that nothing runs beyond it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from acip_core.api import AcipModel
from acip_core.artifacts.loading import Loaded
from acip_core.errors import GenerationError
from acip_core.generation.engine import Engine, SamplingConfig
from acip_core.model.context import context_length
from tests.support.tiny import tiny_artifact, tiny_elastic


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("llama", {"max_position_embeddings": 300}, 300),
        ("gpt2", {"n_positions": 300}, 300),
        ("opt", {"max_position_embeddings": 300}, 300),
        ("mpt", {"max_seq_len": 300}, 300),
        ("rwkv", {"context_length": 300}, 300),
        ("xlnet", {}, 2048),  # says −1: no limit
        ("bloom", {}, 2048),
        ("mamba", {}, 2048),
        ("gemma3", {"text_config": {"max_position_embeddings": 300}}, 300),
    ],
)
def test_every_family_says_it_in_its_own_words(family: str, settings: dict[str, Any], expected: int) -> None:
    assert context_length(AutoConfig.for_model(family, **settings)) == expected


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_nothing_runs_beyond_it(family: str) -> None:
    elastic = tiny_elastic(family)
    engine, plan = Engine(elastic), elastic.planner.at_ratio(0.7)
    engine.ends = frozenset()
    longest: list[int] = []
    forward = engine._scheduler.run

    def watched(ids: torch.Tensor, plan, cache, keep: int = 1) -> torch.Tensor:
        logits = forward(ids, plan, cache, keep)
        longest.append(cache.ids.shape[1] if hasattr(cache, "ids") else cache.get_seq_length())
        return logits

    engine._scheduler.run = watched  # type: ignore[method-assign]
    *_, last = engine.stream("x" * 200, plan, SamplingConfig(max_new_tokens=56))
    assert last.prompt_tokens + last.count == 256
    with pytest.raises(GenerationError, match="at most 200 fit beside 56 new ones"):
        engine.stream("x" * 201, plan, SamplingConfig(max_new_tokens=56))
    assert len(list(engine.decode_seconds(plan, 20, behind=400))) == 20
    assert 200 <= max(longest) <= 256


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_a_long_text_is_measured_within_it(family: str) -> None:
    elastic = tiny_elastic(family)
    model = AcipModel(Loaded(elastic, tiny_artifact(elastic.base), ""))
    rows: list[int] = []
    elastic.model.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[1]))
    assert math.isfinite(model.perplexity("many words " * 90))
    assert sum(rows) > 900 and max(rows) <= 256
