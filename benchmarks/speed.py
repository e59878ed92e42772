"""Speed at several sizes against the plain base model in transformers, interleaved, and against the memory's limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from transformers import DynamicCache, PreTrainedModel

from acip_core.artifacts.loading import open_model
from acip_core.data.corpus import documents, token_windows
from acip_core.model.base_model import load_base
from acip_core.progress import finish

from .figure import Figure, clock, median_of
from .plain import plain_model

_PROMPT, _NEW, _LONG = 32, 64, 512  # tokens
_DECODING = {1.0: 1.0, 0.85: 1.0, 0.7: 1.25, 0.55: 1.0, 0.4: 1.6}  # targets by size
_PREFILL = {1.0: 1.0, 0.85: 1.0, 0.7: 1.0, 0.55: 1.0, 0.4: 1.3}
_MOST_OF_ONE = 2.0  # times one full-size stream that five sizes in one batch may take


def measure_speed(rounds: int = 5) -> list[Figure]:
    """Decoding (batch 1, 64 new tokens after a prompt of 32), prompt reading (512 tokens), five sizes in one batch."""
    base = load_base()
    plain = plain_model(base)
    elastic = finish(open_model()).elastic
    text = token_windows(base.tokenizer, documents("wikipedia", "held-out"), _LONG, 1).to(plain.device)
    prompt = text[:, :_PROMPT]
    plans = {size: elastic.planner.at_ratio(size) for size in _DECODING}
    side_by_side = elastic.batch(list(plans.values()))
    bandwidth = _bandwidth(plain.device)
    decoding: dict[float, list[float]] = {size: [] for size in plans}
    prefill: dict[float, list[float]] = {size: [] for size in plans}
    base_decoding, base_prefill, together = [], [], []
    _decode(plain, prompt)
    for _ in range(rounds):
        base_decoding.append(_decode(plain, prompt))
        base_prefill.append(_read(plain, text))
        for size, plan in plans.items():
            elastic.apply(plan)
            decoding[size].append(_decode(elastic.model, prompt))
            prefill[size].append(_read(elastic.model, text))
        elastic.apply(side_by_side)
        together.append(_decode(elastic.model, prompt.repeat(len(plans), 1)))
    figures = []
    for size, target in _DECODING.items():
        name = f"decoding speed at {size:.0%} ÷ the base model's"
        figure = median_of(name, _ratios(base_decoding, decoding[size]), "×", target, "higher")
        read = plans[size].parameters * plain.dtype.itemsize  # in every step: embeddings are tied to the head
        fastest = _NEW * read / bandwidth
        figures.append(replace(figure, limit=median(base_decoding) / fastest))
    for size, target in _PREFILL.items():
        name = f"speed of reading {_LONG} tokens at {size:.0%} ÷ the base model's"
        figures.append(median_of(name, _ratios(base_prefill, prefill[size]), "×", target, "higher"))
    sizes = ", ".join(f"{100 * size:.0f}" for size in plans)
    name = f"five sizes in one batch ({sizes} %) ÷ one stream at 100%"
    figures.append(median_of(name, _ratios(together, decoding[1.0]), "×", _MOST_OF_ONE))
    if plain.device.type != "cpu":
        for size in plans:
            speeds = [_NEW / seconds for seconds in decoding[size]]
            figures.append(median_of(f"decoding at {size:.0%}", speeds, "tokens/s", None, "higher"))
            reading = [1e3 * seconds for seconds in prefill[size]]
            figures.append(median_of(f"reading {_LONG} tokens at {size:.0%}", reading, "ms"))
    return figures


def _ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def _bandwidth(device: torch.device) -> float:
    """Bytes per second that the device reads from memory, the best of several passes over 1 GB."""
    block = torch.ones(2**28, device=device)
    best = float("inf")
    for _ in range(5):
        began = clock()
        block.sum()
        best = min(best, clock() - began)
    return block.numel() * block.element_size() / best


@torch.inference_mode()
def _decode(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """Seconds for the new tokens of a batch, the prompt not counted."""
    cache = DynamicCache(config=model.config)
    token = model(ids, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    began = clock()
    for _ in range(_NEW):
        token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    return clock() - began


@torch.inference_mode()
def _read(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """Seconds until the first new token after a prompt."""
    began = clock()
    model(ids, use_cache=True, logits_to_keep=1).logits.argmax(-1)
    return clock() - began
