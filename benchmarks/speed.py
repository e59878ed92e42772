"""Greedy decoding at several sizes against the plain base model in transformers, interleaved."""

from __future__ import annotations

import time

import torch
from transformers import DynamicCache, PreTrainedModel

from acip_core.base import load_base
from acip_core.corpus import documents, token_windows
from acip_core.loading import open_model
from acip_core.progress import finish

from .figure import Figure, median_of

_PROMPT, _NEW = 32, 64
_SIZES = (1.0, 0.7, 0.4)


def measure_speed(rounds: int = 5) -> list[Figure]:
    """Decoding speed ÷ the base model's: batch 1, 64 new tokens after a prompt of 32."""
    plain = load_base()
    elastic = finish(open_model()).elastic
    ids = token_windows(plain.tokenizer, documents("wikipedia", "held-out"), _PROMPT, 1).to(plain.device)
    ratios: dict[float, list[float]] = {size: [] for size in _SIZES}
    _decode(plain.model, ids)
    for _ in range(rounds):
        base = _decode(plain.model, ids)
        for size in _SIZES:
            elastic.set_size(size)
            ratios[size].append(base / _decode(elastic.model, ids))
    return [
        median_of(f"decoding speed at {size:.0%} ÷ the base model's", values, "×", None, "higher")
        for size, values in ratios.items()
    ]


@torch.inference_mode()
def _decode(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """Seconds for the new tokens, the prompt not counted."""
    cache = DynamicCache(config=model.config)
    token = model(ids, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    began = time.perf_counter()
    for _ in range(_NEW):
        token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    return time.perf_counter() - began
