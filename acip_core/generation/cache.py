"""How a model continues a text that it has read the start of: what its cache holds, what its forward must be given.

Attention keeps the keys and values of all tokens and reads on, however the text is cut. Recurrent layers
keep one state. Some of these models read several further tokens as if nothing came before them (Mamba), some count
positions from zero in every pass (Bamba), some take their cache by another name and ignore ours (Mamba-2), some keep
the state in their own modules, where the next caller overwrites it (RecurrentGemma), some take no cache at all (GPT-1,
RWKV).

Nothing of this is decided by a model's name: what its forward's parameters and its cache's layers do not show is tried
once on the model itself, with two texts that alternate, against one pass over the whole text.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from .kept_cache import KeptLayer

_KEYWORDS = ("past_key_values", "cache_params")  # by which forward takes a cache
_IN_SLICES, _IN_TOKENS = (10, 1, 13), (20, 1, 1, 1, 1)  # how the text that is tried is cut
_EXACT = 1e-3  # relative error of a state that rounding makes at most, in float32
_ROUNDED = {
    True: 0.03,
    False: 0.15,
}  # in less; strict for slices, for without them little is lost, without a cache much


class WholeText:
    """Stands in for the cache of a model that keeps nothing usable: the tokens read so far, to be read again.

    Attributes:
        ids: (sequences, tokens).
    """

    def __init__(self) -> None:
        self.ids: torch.Tensor | None = None

    def extended(self, ids: torch.Tensor) -> torch.Tensor:
        """The text with `ids` (sequences, tokens) at its end, and keep it."""
        self.ids = ids if self.ids is None else torch.cat([self.ids, ids], dim=1)
        return self.ids

    def reorder_cache(self, rows: torch.Tensor) -> None:
        """Continue these rows alone, as `Cache.reorder_cache`."""
        assert self.ids is not None
        self.ids = self.ids[rows.to(self.ids.device)]


TextCache = Cache | WholeText


@dataclass(frozen=True)
class CacheSupport:
    """What a model needs to continue a text.

    Attributes:
        keyword: of its forward, by which it takes a cache; empty where the text is read again at every step.
        slices: it may read several tokens onto what a cache holds; otherwise the prompt is read in one pass and then
            one token at a time.
        positions: its forward must be given the positions of the new tokens.
        attention: its layers keep keys and values alone.
        selects: its forward computes the logits of the last positions alone when asked to.
    """

    keyword: str
    slices: bool
    positions: bool
    attention: bool
    selects: bool

    def chunk(self, tokens: int, slice: int) -> int:
        """Tokens of a prompt to read per pass, of `slice` where that is right."""
        return slice if self.slices and self.keyword else max(tokens, 1)

    def cache(self, model: PreTrainedModel, room: int = 0) -> TextCache:
        """An empty cache, where possible one that takes memory for `room` tokens at once."""
        if not self.keyword:
            return WholeText()
        cache = DynamicCache(config=model.config)
        cache.layers = [KeptLayer(room) if room and type(layer) is DynamicLayer else layer for layer in cache.layers]
        return cache


def cache_support_of(model: PreTrainedModel) -> CacheSupport:
    """How `model` continues a text; a few short passes at the size in force where only these can tell."""
    parameters = inspect.signature(model.forward).parameters
    keyword = next((name for name in _KEYWORDS if name in parameters), "")
    nothing = CacheSupport("", True, False, False, "logits_to_keep" in parameters)
    try:
        layers = DynamicCache(config=model.config).layers
    except Exception:  # a configuration that no cache can be made for
        return nothing
    if keyword == _KEYWORDS[0] and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return replace(nothing, keyword=keyword, attention=True)
    if not keyword:
        return nothing
    positions = (False, True) if "position_ids" in parameters else (False,)
    ways = [replace(nothing, keyword=keyword, slices=s, positions=p) for s in (True, False) for p in positions]
    return next((way for way in ways if _continues_exactly(model, way)), nothing)


@torch.inference_mode()
def read(
    model: PreTrainedModel, support: CacheSupport, ids: torch.Tensor, cache: TextCache, keep: int = 1
) -> torch.Tensor:
    """One pass: logits (sequences, keep, vocabulary) of the last `keep` positions (all of `ids` for 0).

    Args:
        ids: (sequences, tokens) that follow what `cache` holds.
    """
    if isinstance(cache, WholeText):
        return _logits(model, support, cache.extended(ids), keep or ids.shape[1], use_cache=False)
    parts: Sequence[torch.Tensor] = [ids] if support.slices or not _has_tokens(cache) else ids.split(1, dim=1)
    logits = []
    for part in parts:
        settings: dict[str, Any] = {support.keyword: cache, "use_cache": True}
        if support.positions:
            positions = torch.arange(part.shape[1], device=model.device) + cache.get_seq_length()
            settings["position_ids"] = positions.expand(len(part), -1)
        logits.append(_logits(model, support, part, 0 if len(parts) > 1 else keep, **settings))
    return logits[0] if len(logits) == 1 else torch.cat(logits, dim=1)[:, -keep:]


def select_rows(cache: TextCache, rows: torch.Tensor) -> None:
    """Continue these sequences of a cache, each as often as it is named; unlike `Cache.batch_select_indices` this
    reaches every state of every kind of layer."""
    cache.reorder_cache(cast(torch.LongTensor, rows))


def _logits(
    model: PreTrainedModel, support: CacheSupport, ids: torch.Tensor, keep: int, **settings: Any
) -> torch.Tensor:
    if support.selects:
        settings["logits_to_keep"] = keep
    logits: torch.Tensor = model(ids.to(model.device), **settings).logits
    return logits[:, -keep:]


def _has_tokens(cache: Cache) -> bool:
    """Whether it holds the start of a text."""
    return any(_state_tensors(layer) for layer in cache.layers)


@torch.inference_mode()
def _continues_exactly(model: PreTrainedModel, support: CacheSupport) -> bool:
    """Whether a text read in parts, another one in between, leaves the state of one pass over the whole."""
    lengths = _IN_SLICES if support.slices else _IN_TOKENS
    text = torch.arange(2 * sum(lengths)).view(2, -1) * 7919 % model.config.get_text_config().vocab_size
    try:
        at_once, *in_parts = (support.cache(model) for _ in range(3))
        whole = read(model, support, text[:1], at_once, 0)
        parts = []
        for part in text.split(lengths, dim=1):
            logits = [read(model, support, row[None], cache, 0) for row, cache in zip(part, in_parts, strict=True)]
            parts.append(logits[0])
        expected, found = _state(at_once), _state(in_parts[0])
        pairs = [*zip(expected, found, strict=True), (whole, torch.cat(parts, dim=1))]
    except Exception:  # it takes another kind of cache, or keeps a state elsewhere
        return False
    limit = _EXACT if model.dtype in (torch.float32, torch.float64) else _ROUNDED[support.slices]
    return all(float((y.float() - x.float()).norm()) <= limit * float(x.float().norm()) for x, y in pairs)


def _state(cache: TextCache) -> list[torch.Tensor]:
    """All that a cache holds.

    Raises:
        LookupError: one of its layers holds nothing.
    """
    assert isinstance(cache, Cache)
    for layer in cache.layers:
        if not _state_tensors(layer) and type(layer) is not DummyLayer:
            raise LookupError(type(layer).__name__)
    return [tensor for layer in cache.layers for tensor in _state_tensors(layer)]


def _state_tensors(layer: object) -> list[torch.Tensor]:
    """The tensors of one layer of a cache, those of several states among them."""
    values = [v for value in vars(layer).values() for v in (value.values() if isinstance(value, dict) else [value])]
    return [v for v in values if isinstance(v, torch.Tensor) and v.is_floating_point() and v.numel()]
