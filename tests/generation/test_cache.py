"""Models that keep a state, a window or nothing instead of keys and values: what they write and measure is theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from acip_core.evaluation.perplexity import measure_perplexity
from acip_core.generation.cache import cache_support_of
from acip_core.generation.engine import Engine, SamplingConfig
from acip_core.generation.tokens import Token
from acip_core.model.base_model import BaseModel
from acip_core.model.elastic_model import ElasticModel, build_elastic
from acip_core.model.factorization import factorize_layer
from acip_core.model.target_layers import decoder_blocks, linearize
from acip_core.progress import finish
from tests.support.tiny import VOCABULARY, generator, tiny_tokenizer

_IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
_BODY = {**_IDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 1024}
_LLAMA = {**_BODY, "num_attention_heads": 4, "num_key_value_heads": 2}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
_MAMBA = {**_IDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
_LINEAR = {f"linear_{name}": n for name, n in (("num_value_heads", 4), ("num_key_heads", 2))}
_LINEAR |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
_NEXT: dict[str, Any] = {**_LINEAR, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "mamba_d_state": 8}
SETTINGS: dict[str, dict[str, Any]] = {
    "mamba": _MAMBA,
    "mamba2": {**_MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2},
    "bamba": {**_LLAMA, **_MAMBA2, "attn_layer_indices": [1]},
    "falcon_h1": {**_LLAMA, **_MAMBA2, "mamba_d_ssm": 64},
    "jamba": {**_LLAMA, **_JAMBA, "num_experts": 1, "num_experts_per_tok": 1, "use_mamba_kernels": False},
    "qwen3_next": {**_LLAMA, **_NEXT, **_EXPERTS, "shared_expert_intermediate_size": 16},
    "lfm2": {**_LLAMA, "layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {
        **{**_LLAMA, "num_key_value_heads": 1},
        **{"lru_width": 32, "attention_window_size": 48, "block_types": ["recurrent", "attention"]},
    },
    "rwkv": {**_IDS, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 1024},
    "openai-gpt": {**_IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024},
    "mistral": {**_LLAMA, "sliding_window": 48},
    "gemma3_text": {**_LLAMA, "head_dim": 8, "sliding_window": 48},
    "cohere2": {**_LLAMA, "sliding_window": 48},
    "gpt_neo": {
        **{**_IDS, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 1024},
        **{"attention_types": [[["global", "local"], 1]], "window_size": 48},
    },
    "bloom": {**_IDS, "hidden_size": 32, "n_layer": 2, "n_head": 4},
}
ATTENTION = {"mistral", "gemma3_text", "cohere2", "gpt_neo", "bloom"}
IN_SLICES = {"mamba2", "bamba", "falcon_h1", "qwen3_next", "lfm2", *ATTENTION}
ONE_BY_ONE = {"mamba", "jamba"}  # the others keep nothing that could be passed on
SIZES = (1.0, 0.7, 0.5)
PROMPT = "Every family reads a prompt that is longer than a slice and than any window. " * 8  # 616 tokens
GREEDY = SamplingConfig(max_new_tokens=10)


def model_of(family: str) -> PreTrainedModel:
    """A random model of the family in float32, its recurrence slow to forget."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SETTINGS[family]), dtype=torch.float32)
    source = generator(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=source) * parameter.shape[1] ** -0.5)
    return model.eval()


def elastic_of(family: str) -> ElasticModel:
    """Every linear map of the blocks elastic, whether or not it would be compressed."""
    model = model_of(family)
    linearize(model)
    prefix, blocks = decoder_blocks(model)
    maps = {f"{prefix}.{name}": m.weight for name, m in blocks.named_modules() if isinstance(m, nn.Linear)}
    factors = {name: factorize_layer(weight) for name, weight in maps.items()}
    source = generator(3)
    scores = {name: torch.rand(min(weight.shape), generator=source) for name, weight in maps.items()}
    return finish(build_elastic(BaseModel(model, tiny_tokenizer(), family, "memory"), factors, scores))


@pytest.fixture(params=SETTINGS)
def engine(request: pytest.FixtureRequest) -> Engine:
    engine = Engine(elastic_of(request.param))
    engine.ends = frozenset()
    return engine


def written(steps: Iterator[dict[int, Token]], columns: int = 1) -> list[list[int]]:
    """Ids of the tokens of every column."""
    ids: list[list[int]] = [[] for _ in range(columns)]
    for step in steps:
        for column, token in step.items():
            ids[column] += [] if token.id is None else [token.id]
    return ids


def test_texts_behind_a_long_prompt_are_those_of_generate(engine: Engine) -> None:
    ids = torch.tensor([engine.elastic.tokenizer(PROMPT).input_ids])
    plans = [engine.elastic.planner.at_ratio(size) for size in SIZES]
    expected = []
    for plan in plans:
        options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        with engine.elastic.at(plan):
            made = engine.elastic.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        expected.append(made[0, ids.shape[1] :].tolist())
    streams = [engine.compare(PROMPT, [plan], GREEDY) for plan in plans]
    texts: list[list[int]] = [[] for _ in plans]
    for steps in zip(*streams, strict=True):  # visitors in turns
        for text, step in zip(texts, steps, strict=True):
            text += [] if step[0].id is None else [step[0].id]
    assert texts == expected
    assert written(engine.compare(PROMPT, plans, GREEDY), len(plans)) == expected


def test_what_is_measured_is_what_one_pass_says(engine: Engine) -> None:
    windows = torch.randint(3, VOCABULARY, (2, 600), generator=generator(2))
    plan = engine.elastic.planner.at_ratio(0.7)
    measured = list(engine.measure(windows, plan))
    with engine.elastic.at(plan):
        expected = list(measure_perplexity(engine.elastic.model, windows))
    assert [m.value for m in measured] == pytest.approx([e.value for e in expected], rel=1e-4)


def test_probabilities_are_those_of_one_pass(engine: Engine) -> None:
    plans = [engine.elastic.planner.at_ratio(size) for size in (0.5, 0.7)]
    ids: list[list[int]] = [[], []]
    found: list[list[float]] = [[], []]
    for step in engine.compare(PROMPT, plans, SamplingConfig(1.0, max_new_tokens=20), judge=True):
        for column, token in step.items():
            ids[column] += [] if token.id is None else [token.id]
            found[column] += token.probabilities
    start = engine.elastic.tokenizer(PROMPT).input_ids
    for own, probabilities in zip(ids, found, strict=True):
        with torch.inference_mode():
            logits = engine.elastic.model(torch.tensor([start + own]), use_cache=False).logits[0, len(start) - 1 : -1]
        expected = logits.softmax(-1).gather(-1, torch.tensor(own)[:, None]).flatten()
        torch.testing.assert_close(torch.tensor(probabilities), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_a_model_can_do_is_found_out(family: str, dtype: torch.dtype) -> None:
    cache_support = cache_support_of(model_of(family).to(dtype))
    assert bool(cache_support.keyword) == (family in IN_SLICES | ONE_BY_ONE)
    assert cache_support.slices == (family not in ONE_BY_ONE)
    assert cache_support.positions == (family == "bamba")
    assert cache_support.attention == (family in ATTENTION)
