"""What a GPU does in absolute terms: tokens per second of one stream and of twenty, resizes, first tokens, memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from transformers import DynamicCache, PreTrainedModel

from acip_core.artifacts.loading import install_coding, open_model
from acip_core.data.corpus import documents, token_windows
from acip_core.model.byte_planner import BytePlanner
from acip_core.model.elastic_model import ElasticModel
from acip_core.model.placement import best_device
from acip_core.model.size_planner import Plan
from acip_core.progress import finish

from .figure import Figure, clock, median_of
from .plain import plain_model

_PROMPT, _NEW, _VISITORS, _CHANGES = 32, 32, 20, 20
_SIZES = (1.0, 0.85, 0.7, 0.55, 0.4)  # of the directions
_BYTES = (0.75, 0.5, 0.36, 0.26)  # of the published bytes
_MANY = (1.0, 0.4, 0.26)  # sizes that also write twenty texts at once


@dataclass(frozen=True)
class _Stream:
    """Medians of a text that is written: seconds to the first token, tokens per second after it."""

    first: float
    speed: float


def measure_accelerator(rounds: int = 3) -> list[Figure]:
    """Nothing where the model would not run on a GPU."""
    if best_device().type != "cuda":
        return []
    loaded = finish(open_model())
    elastic, text = loaded.elastic, documents("wikipedia", "held-out")
    prompts = token_windows(elastic.tokenizer, text, _PROMPT, _VISITORS).to(elastic.model.device)
    plain = plain_model(elastic.base)
    figures = _streams("the base model in transformers", plain, prompts, rounds, True)
    del plain
    torch.cuda.reset_peak_memory_stats()
    for size in _SIZES:
        with elastic.at(elastic.planner.at_ratio(size)):
            figures += _streams(f"{size:.0%} of the directions", elastic.model, prompts, rounds, size in _MANY)
    with elastic.at(elastic.batch([elastic.planner.at_ratio(size) for size in _SIZES])):
        five = _written(elastic.model, prompts[:1].repeat(len(_SIZES), 1), rounds)
    figures.append(Figure("five sizes at once, of each", five.speed / len(_SIZES), "tokens/s", better="higher"))
    figures.append(_resize(elastic, "directions", elastic.planner.at_ratio))
    figures.append(Figure("memory in all, directions", torch.cuda.max_memory_allocated() / 1e6, "MB"))
    if loaded.coding is None:
        return figures
    began = clock()
    finish(install_coding(loaded))
    figures.append(Figure("codes, made or read", clock() - began, "s"))
    torch.cuda.reset_peak_memory_stats()
    planner = elastic.planners["both"]
    assert isinstance(planner, BytePlanner)

    def at_share(share: float) -> Plan:
        return planner.at_bytes(share * planner.base_bytes)

    for share in _BYTES:
        with elastic.at(at_share(share)):
            figures += _streams(f"{share:.0%} of the bytes", elastic.model, prompts, rounds, share in _MANY)
    figures.append(_resize(elastic, "bytes", at_share))
    figures.append(Figure("memory in all, bytes", torch.cuda.max_memory_allocated() / 1e6, "MB"))
    return figures


def _streams(name: str, model: PreTrainedModel, prompts: torch.Tensor, rounds: int, many: bool) -> list[Figure]:
    """One text, and all prompts' texts at once where `many` is set."""
    one = _written(model, prompts[:1], rounds)
    figures = [
        Figure(f"{name}: first token", 1e3 * one.first, "ms"),
        Figure(f"{name}: one stream", one.speed, "tokens/s", better="higher"),
    ]
    if many:
        speed = _written(model, prompts, rounds).speed
        figures.append(Figure(f"{name}: {len(prompts)} streams, in all", speed, "tokens/s", better="higher"))
    return figures


@torch.inference_mode()
def _written(model: PreTrainedModel, ids: torch.Tensor, rounds: int) -> _Stream:
    """The first round warms up and does not count."""
    first, rest = [], []
    for _ in range(rounds + 1):
        cache = DynamicCache(config=model.config)
        began = clock()
        token = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits.argmax(-1)
        read = clock()
        for _ in range(_NEW):
            token = model(token, past_key_values=cache, use_cache=True).logits.argmax(-1)
        first.append(read - began)
        rest.append(clock() - read)
    return _Stream(median(first[1:]), len(ids) * _NEW / median(rest[1:]))


@torch.inference_mode()
def _resize(elastic: ElasticModel, name: str, plan_at: Callable[[float], Plan]) -> Figure:
    """Setting a size and one pass, less a later pass of that size."""
    draw, ids = random.Random(0), torch.arange(10, 20)[None].to(elastic.model.device)

    def passed() -> float:
        began = clock()
        elastic.model(ids, use_cache=False)
        return clock() - began

    extra = []
    for _ in range(_CHANGES):
        plan = plan_at(draw.uniform(0.3, 1.0))
        began = clock()
        elastic.apply(plan)
        set_ = clock() - began
        first = passed()
        extra.append(1e3 * (set_ + first - min(passed() for _ in range(3))))
    return median_of(f"a change of size, {name}", extra, "ms")
