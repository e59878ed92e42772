"""Speed at several sizes against the plain base model in transformers, interleaved, and against the memory's limit."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from transformers import DynamicCache, PreTrainedModel

from acip_core.base import load_base
from acip_core.corpus import documents, token_windows
from acip_core.loading import open_model
from acip_core.progress import finish
from acip_core.sizing import Plan

from .figure import Figure, median_of

_PROMPT, _NEW, _LONG = 32, 64, 512  # tokens
_DECODING = {1.0: 1.0, 0.85: 1.0, 0.7: 1.25, 0.55: 1.0, 0.4: 1.6}  # targets by size
_PREFILL = {1.0: 1.0, 0.85: 1.0, 0.7: 1.0, 0.55: 1.0, 0.4: 1.3}
_MOST_OF_ONE = 2.0  # times one full-size stream that five sizes in one batch may take


def measure_speed(rounds: int = 5) -> list[Figure]:
    """Decoding (batch 1, 64 new tokens after a prompt of 32), prompt reading (512 tokens), five sizes in one batch."""
    plain = load_base()
    elastic = finish(open_model()).elastic
    text = token_windows(plain.tokenizer, documents("wikipedia", "held-out"), _LONG, 1).to(plain.device)
    prompt = text[:, :_PROMPT]
    plans = {size: elastic.planner.at_ratio(size) for size in _DECODING}
    side_by_side = elastic.batch(list(plans.values()))
    bandwidth = _bandwidth(plain.device)
    decoding: dict[float, list[float]] = {size: [] for size in plans}
    prefill: dict[float, list[float]] = {size: [] for size in plans}
    together, seconds = [], []
    _decode(plain.model, prompt)
    for _ in range(rounds):
        base, base_prefill = _decode(plain.model, prompt), _read(plain.model, text)
        seconds.append(base)
        for size, plan in plans.items():
            elastic.apply(plan)
            own = _decode(elastic.model, prompt)
            decoding[size].append(base / own)
            prefill[size].append(base_prefill / _read(elastic.model, text))
            if size == 1:
                full = own
        elastic.apply(side_by_side)
        together.append(_decode(elastic.model, prompt.repeat(len(plans), 1)) / full)
    base = sorted(seconds)[rounds // 2]
    figures = []
    for size, target in _DECODING.items():
        figure = median_of(f"decoding speed at {size:.0%} ÷ the base model's", decoding[size], "×", target, "higher")
        figures.append(replace(figure, limit=base / (_NEW * _bytes_per_token(plans[size]) / bandwidth)))
    for size, target in _PREFILL.items():
        name = f"speed of reading {_LONG} tokens at {size:.0%} ÷ the base model's"
        figures.append(median_of(name, prefill[size], "×", target, "higher"))
    sizes = ", ".join(f"{100 * size:.0f}" for size in plans)
    name = f"five sizes in one batch ({sizes} %) ÷ one stream at 100%"
    return [*figures, median_of(name, together, "×", _MOST_OF_ONE)]


def _bytes_per_token(plan: Plan) -> int:
    """Weights that one decoding step reads: all of them, for embeddings are tied to the head."""
    return plan.bytes


def _bandwidth(device: torch.device) -> float:
    """Bytes per second that the device reads from memory, the best of several passes over 1 GB."""
    block = torch.ones(2**28, device=device)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        block.sum().item()
        best = min(best, time.perf_counter() - began)
    return block.numel() * block.element_size() / best


@torch.inference_mode()
def _decode(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """Seconds for the new tokens of a batch, the prompt not counted."""
    cache = DynamicCache(config=model.config)
    token = model(ids, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    began = time.perf_counter()
    for _ in range(_NEW):
        token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    token.tolist()  # waits for the device
    return time.perf_counter() - began


@torch.inference_mode()
def _read(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """Seconds until the first new token after a prompt."""
    began = time.perf_counter()
    model(ids, use_cache=True, logits_to_keep=1).logits.argmax(-1).tolist()
    return time.perf_counter() - began
