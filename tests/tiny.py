"""Tiny random models of real transformers classes, with a tokenizer made in memory; no network, no files."""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from acip_core.artifact import Artifact, Curve, CurvePoint
from acip_core.base import BaseModel, fingerprint, target_layers
from acip_core.basis import Basis, measure_basis
from acip_core.elastic import AdapterWeights, ElasticModel, build_elastic
from acip_core.factorize import Factors, factorize
from acip_core.progress import finish
from acip_core.scoring.iterative import iterative_scores

FAMILIES = ("llama", "qwen2", "mistral", "gemma3")
VOCABULARY = 128
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 16}),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {"sliding_window": 16, "query_pre_attn_scalar": 8}),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A model of about 30,000 parameters in float32, all of them random, in evaluation mode."""
    config_class, model_class, extra = _CLASSES[family]
    model = model_class(config_class(**_SIZES, **extra))
    source = generator(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms and biases: transformers leaves the latter at zero, which hides mistakes
                center = 1.0 if "norm" in name and family != "gemma3" else 0.0
                parameter.copy_(center + 0.1 * torch.randn(parameter.shape, generator=source))
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=source) * parameter.shape[1] ** -0.5)
    return model.eval()


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
    return BaseModel(tiny_model(family, seed), tiny_tokenizer(), f"tiny-{family}", "memory")


def calibration() -> torch.Tensor:
    """(6, 32) token ids."""
    return torch.randint(3, VOCABULARY, (6, 32), generator=generator(1))


def target_weights(base: BaseModel) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach() for name, layer in target_layers(base.model).items()}


def tiny_basis(base: BaseModel) -> Basis:
    return finish(measure_basis(base.model, calibration(), rank=16))


def tiny_factors(base: BaseModel) -> dict[str, Factors]:
    return finish(factorize(target_weights(base), tiny_basis(base)))


def random_scores(base: BaseModel, seed: int = 3) -> dict[str, torch.Tensor]:
    source = generator(seed)
    return {name: torch.rand(min(weight.shape), generator=source) for name, weight in target_weights(base).items()}


def random_adapters(base: BaseModel, rank: int = 2, seed: int = 4) -> dict[str, AdapterWeights]:
    source = generator(seed)
    adapters = {}
    for name, weight in target_weights(base).items():
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


def tiny_artifact(base: BaseModel, adapter_rank: int = 2, curves: bool = True) -> Artifact:
    """An artifact that fits `base`, with made-up curves on two corpora."""
    weights = target_weights(base)
    adapters = random_adapters(base, adapter_rank) if adapter_rank else None
    recipe = {"adapters": {"rank": adapter_rank, "alpha": 2 * adapter_rank} if adapter_rank else None}
    history = {"loss": torch.ones(3), "ratio": torch.ones(3)} if adapter_rank else {}
    return Artifact(
        name=base.name,
        source=base.source,
        fingerprint=fingerprint(weights),
        recipe=recipe,
        curves=(_curve("c4", 30.0), _curve("wikipedia", 20.0)) if curves else (),
        scores=random_scores(base),
        basis=tiny_basis(base),
        adapters=adapters,
        history=history,
    )


def _curve(corpus: str, base_perplexity: float) -> Curve:
    points = [
        CurvePoint(ratio, round(30_000 * ratio), round(120_000 * ratio), base_perplexity / ratio**3)
        for ratio in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    ]
    return Curve("fisher+adapters", corpus, "held-out", 8176, base_perplexity, tuple(points))
