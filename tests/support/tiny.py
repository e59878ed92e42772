"""Tiny random models of real transformers classes, with a tokenizer made in memory; no network, no files."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from acip_core.artifacts.artifact import Artifact
from acip_core.evaluation.curves import Curve, CurvePoint
from acip_core.model.base_model import BaseModel, fingerprint
from acip_core.model.elastic_model import AdapterWeights, ElasticModel, build_elastic
from acip_core.model.factorization import Factors, factorize
from acip_core.model.second_moments import Basis, measure_basis
from acip_core.model.target_layers import linearize, target_layers
from acip_core.progress import finish
from acip_core.scoring.iterative import iterative_scores
from acip_core.storage.digests import digest
from tests.support.device import DEVICE

VOCABULARY = 128
_IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
_LLAMA = {**_IDS, **_LAYERS, "intermediate_size": 56, "num_key_value_heads": 2}
_GPT2 = {**_IDS, "n_embd": 32, "n_inner": 56, "n_layer": 2, "n_head": 4, "n_positions": 256}
_CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {**_LLAMA, "head_dim": 8, "tie_word_embeddings": True}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, _LLAMA),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {**_LLAMA, "head_dim": 8}),
    "mistral": (MistralConfig, MistralForCausalLM, {**_LLAMA, "head_dim": 8, "sliding_window": 16}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {**_LLAMA, "head_dim": 8, "sliding_window": 16}),
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {**_LLAMA, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    ),
    "phi3": (Phi3Config, Phi3ForCausalLM, _LLAMA),
    "gpt2": (GPT2Config, GPT2LMHeadModel, _GPT2),
    "opt": (OPTConfig, OPTForCausalLM, {**_IDS, **_LAYERS, "ffn_dim": 56, "word_embed_proj_dim": 32}),
    "pythia": (GPTNeoXConfig, GPTNeoXForCausalLM, {**_IDS, **_LAYERS, "intermediate_size": 56}),
}
FAMILIES = tuple(_CLASSES)
_MADE: dict[tuple[str, ...], Any] = {}
Made = TypeVar("Made")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A model of about 30,000 parameters in float32, all of them random, in evaluation mode."""
    return deepcopy(_tiny_model(family, seed))


@cache
def _tiny_model(family: str, seed: int) -> PreTrainedModel:
    config_class, model_class, settings = _CLASSES[family]
    model = model_class(config_class(**settings))
    source = generator(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms and biases: transformers leaves the latter at zero, which hides mistakes
                center = 1.0 if name.endswith("weight") and not family.startswith("gemma") else 0.0
                parameter.copy_(center + 0.1 * torch.randn(parameter.shape, generator=source))
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=source) * parameter.shape[1] ** -0.5)
    return model.to(DEVICE).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character: pad, bos, eos, unknown, then printable ASCII."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: i for i, token in enumerate(special + [chr(c) for c in range(32, 127)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def tiny_base(family: str = "llama", seed: int = 0) -> BaseModel:
    model = tiny_model(family, seed)
    linearize(model)
    return BaseModel(model, tiny_tokenizer(), f"tiny-{family}", "memory")


def save(base: BaseModel, folder: Path) -> Path:
    """A model and its tokenizer as a folder in the Hub's layout."""
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def calibration() -> torch.Tensor:
    """(6, 32) token ids."""
    return torch.randint(3, VOCABULARY, (6, 32), generator=generator(1))


def target_weights(base: BaseModel, exclude: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    return target_layers(base.model, exclude=exclude).weights()


def tiny_basis(base: BaseModel, exclude: tuple[str, ...] = ()) -> Basis:
    weights = target_weights(base, exclude)
    return _once("basis", base, exclude, lambda: finish(measure_basis(base.model, calibration(), 16, layers=weights)))


def tiny_factors(base: BaseModel, exclude: tuple[str, ...] = ()) -> dict[str, Factors]:
    weights = target_weights(base, exclude)
    return _once("factors", base, exclude, lambda: finish(factorize(weights, tiny_basis(base, exclude))))


def _once(kind: str, base: BaseModel, exclude: tuple[str, ...], make: Callable[[], Made]) -> Made:
    """A copy of what was made of these very numbers before: most tests begin with the same few models."""
    state = base.model.state_dict().items()
    key = (kind, digest(str(vars(base.model.config)), (part for item in state for part in item)), *exclude)
    if key not in _MADE:
        _MADE[key] = make()
    return deepcopy(_MADE[key])


def random_scores(base: BaseModel, seed: int = 3, exclude: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    source, weights = generator(seed), target_weights(base, exclude)
    return {name: torch.rand(min(weight.shape), generator=source) for name, weight in weights.items()}


def random_adapters(
    base: BaseModel, rank: int = 2, seed: int = 4, exclude: tuple[str, ...] = ()
) -> dict[str, AdapterWeights]:
    source = generator(seed)
    adapters = {}
    for name, weight in target_weights(base, exclude).items():
        m, n = weight.shape
        a = torch.randn(rank, n, generator=source) * n**-0.5
        adapters[name] = AdapterWeights(a, torch.randn(m, rank, generator=source) * 0.3)
    return adapters


def tiny_elastic(family: str = "llama", fisher: bool = False, adapter_rank: int = 0, **options: bool) -> ElasticModel:
    """An elastic model with measured basis, random or Fisher scores, and random adapters where a rank is given."""
    base = tiny_base(family)
    factors = tiny_factors(base)
    scores = finish(iterative_scores(base.model, factors, calibration())) if fisher else random_scores(base)
    adapters = random_adapters(base, adapter_rank) if adapter_rank else None
    return finish(build_elastic(base, factors, scores, adapters, **options))


def tiny_artifact(
    base: BaseModel, adapter_rank: int = 2, curves: bool = True, exclude: tuple[str, ...] = ()
) -> Artifact:
    """An artifact that fits `base`, with made-up curves on two corpora."""
    weights = target_weights(base, exclude)
    adapters = random_adapters(base, adapter_rank, exclude=exclude) if adapter_rank else None
    recipe: dict[str, Any] = {"adapters": {"rank": adapter_rank, "alpha": 2 * adapter_rank} if adapter_rank else None}
    recipe |= {"exclude": list(exclude)} if exclude else {}
    history = {"loss": torch.ones(3), "ratio": torch.ones(3)} if adapter_rank else {}
    return Artifact(
        name=base.name,
        source=base.source,
        fingerprint=fingerprint(weights),
        recipe=recipe,
        curves=(_curve("c4", 30.0), _curve("wikipedia", 20.0)) if curves else (),
        scores=random_scores(base, exclude=exclude),
        basis=tiny_basis(base, exclude),
        adapters=adapters,
        history=history,
    )


def _curve(corpus: str, base_perplexity: float) -> Curve:
    points = [
        CurvePoint(ratio, round(30_000 * ratio), round(120_000 * ratio), base_perplexity / ratio**3)
        for ratio in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    ]
    return Curve("fisher-envelope+adapters", corpus, "held-out", 8176, base_perplexity, tuple(points))
