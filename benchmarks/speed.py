"""Speed at several sizes against the plain base model in transformers, interleaved, and against the memory's limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import torch
from transformers import DynamicCache, PreTrainedModel

from acip_core.artifacts.loading import install_coding, open_model
from acip_core.data.corpus import documents, token_windows
from acip_core.generation.engine import Engine
from acip_core.model.base_model import load_base
from acip_core.model.elastic_model import BatchPlan, ElasticModel
from acip_core.model.operating_points import is_coded
from acip_core.model.rank_costs import factor_parameters
from acip_core.model.size_planner import BOTH, Plan
from acip_core.model.thread_pools import one_thread
from acip_core.progress import finish

from .figure import Figure, clock, median_of
from .plain import plain_model

PROMPT, NEW, _LONG = 32, 64, 512  # tokens
_SIZES = (1.0, 0.85, 0.7, 0.55, 0.4)  # of the directions
_SHARES = (0.36, 0.29, 0.26, 0.24, 0.19)  # of the published bytes
_PART = 0.5  # of what the memory's bandwidth allows
_READING = {"40%": 1.6}  # targets above 1
_MOST_OF_ONE = 1.6  # times one full-size stream that five sizes in one batch may take


def measure_speed(rounds: int = 5) -> list[Figure]:
    """Decoding (batch 1, 64 new tokens after a prompt of 32), prompt reading (512 tokens), five sizes in one batch.

    All of it on the thread that owns the model: a second one that computes would make both slower.
    """
    base = load_base()
    plain = plain_model(base)
    loaded = finish(open_model())
    finish(install_coding(loaded))
    engine, elastic = Engine(loaded.elastic), loaded.elastic
    text = token_windows(base.tokenizer, documents("wikipedia", "held-out"), _LONG, 1).to(plain.device)
    prompt = text[:, :PROMPT]
    named: dict[str, Plan] = {f"{size:.0%}": elastic.planner.at_ratio(size) for size in _SIZES}
    five = elastic.batch(list(named.values()))
    if (both := elastic.planners.get(BOTH)) is not None:
        named |= {f"{share:.0%} of the bytes": both.at_ratio(share) for share in _SHARES}
    bandwidth = engine.call(_bandwidth, plain.device)
    decoding: dict[str, list[float]] = {name: [] for name in named}
    prefill: dict[str, list[float]] = {name: [] for name in named}
    base_decoding, base_prefill, together = [], [], []
    engine.call(_decode_plain, plain, prompt)
    for _ in range(rounds):
        base_decoding.append(engine.call(_decode_plain, plain, prompt))
        base_prefill.append(engine.call(_read, plain, text))
        for name, plan in named.items():
            decoding[name].append(decode(engine, plan, prompt))
            with elastic.at(plan):
                prefill[name].append(engine.call(_read, elastic.model, text))
        together.append(decode(engine, five, prompt.repeat(len(_SIZES), 1)))
    figures = []
    for name, plan in named.items():
        limit = median(base_decoding) * bandwidth / (NEW * _read_bytes(elastic, plan))
        title = f"decoding speed at {name} ÷ the base model's"
        figure = median_of(title, _ratios(base_decoding, decoding[name]), "×", round(_PART * limit, 2), "higher")
        figures.append(replace(figure, limit=limit))
    for name in named:
        title = f"speed of reading {_LONG} tokens at {name} ÷ the base model's"
        figures.append(median_of(title, _ratios(base_prefill, prefill[name]), "×", _READING.get(name, 1.0), "higher"))
    sizes = ", ".join(f"{100 * size:.0f}" for size in _SIZES)
    title = f"five sizes in one batch ({sizes} %) ÷ one stream at 100%"
    figures.append(median_of(title, _ratios(together, decoding["100%"]), "×", _MOST_OF_ONE))
    if plain.device.type != "cpu":
        for name in named:
            speeds = [NEW / seconds for seconds in decoding[name]]
            figures.append(median_of(f"decoding at {name}", speeds, "tokens/s", None, "higher"))
            reading = [1e3 * seconds for seconds in prefill[name]]
            figures.append(median_of(f"reading {_LONG} tokens at {name}", reading, "ms"))
    return figures


def _read_bytes(elastic: ElasticModel, plan: Plan) -> int:
    """Bytes that every step has to read of the weights, ranks as sizes count them: embeddings are tied to the head."""
    width, layers = elastic.model.dtype.itemsize, list(elastic.elastic_layers().values())
    counts = [layer.weight.numel() for layer in layers]
    counts += [elastic.model.get_output_embeddings().weight.numel()] if plan.tables else []
    spared = 0
    for count, state in zip(counts, plan.states, strict=True):
        spared += (width - 1) * count if is_coded(state) else 0  # a code is a byte
    for layer, rank in zip(layers, plan.ranks, strict=True):
        if rank >= 0:
            stored = factor_parameters(
                layer.adapter_rank + rank, layer.in_features + layer.out_features, elastic.pivoted
            )
            spared += (width - layer.down.dtype.itemsize) * stored
    return width * plan.parameters - spared


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


def decode(engine: Engine, plan: Plan | BatchPlan, ids: torch.Tensor) -> float:
    """Seconds for the new tokens of a batch, the prompt not counted."""
    cache = engine.cache(ids.shape[1] + NEW)
    with one_thread():  # as all callers of an engine
        token = engine.forward(ids, plan, cache)[:, -1:].argmax(-1)
        began = clock()
        for _ in range(NEW):
            token = engine.forward(token, plan, cache)[:, -1:].argmax(-1)
        return clock() - began


@torch.inference_mode()
def _decode_plain(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """As `_decode`, with transformers alone."""
    cache = DynamicCache(config=model.config)
    token = model(ids, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    began = clock()
    for _ in range(NEW):
        token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    return clock() - began


@torch.inference_mode()
def _read(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """Seconds until the first new token after a prompt."""
    began = clock()
    model(ids, use_cache=True, logits_to_keep=1).logits.argmax(-1)
    return clock() - began
