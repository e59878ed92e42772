"""The thread that owns a model: it runs passes in the order they are asked for and joins requests' next tokens in one.

Decoding a token is reading the weights, and one pass reads them once for however many tokens. So when a request's
next token is due, requests behind it whose next tokens are waiting join its pass. Each request keeps a key-value cache
as long as its text. A `DecodeStep` reads each where it lies, and takes the few tokens of a short prompt as well; other
models need them stacked for the pass, shorter ones padded on the left:

    request A, 5 tokens   · · A A A A A
    request B, 7 tokens   B B B B B B B       masked out: ·
    request C, 3 tokens   · · · · C C C

Knows nothing of prompts, sampling or text.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ParamSpec, TypeGuard, TypeVar, cast

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from ..model.elastic_model import BatchPlan, ElasticModel
from ..model.size_planner import Plan
from .cache import TextCache, cache_support_of, read
from .decode_step import Rows
from .kept_cache import KeptLayer
from .native_step import NativeStep
from .step_choice import decode_step_of

_ROWS = 16  # tokens in one pass of several requests
_SHORT = 2 * _ROWS  # tokens of a prompt that is read in such passes; a longer one is faster in passes of its own
_PATIENCE = 0.5  # of a pass's time, to wait for the requests of the last one: they are choosing their next token
_LONGEST = 512  # tokens in a cache that is stacked; twice as many take the time that reading weights once saves
_PLANS = 16  # batch plans kept, of half a megabyte each where PyTorch runs them, which takes 10 ms to make
_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(eq=False)
class _Step:
    """The next tokens of one request, to be decoded: ids (sequences, tokens), a plan per sequence.

    Attributes:
        keep: last tokens whose logits are wanted, 0 for all.
    """

    ids: torch.Tensor
    plan: Plan | BatchPlan
    cache: DynamicCache
    keep: int = 1
    logits: Future[torch.Tensor] = field(default_factory=Future)

    @property
    def rows(self) -> int:
        """Of a pass."""
        return self.ids.numel()

    @property
    def plans(self) -> list[Plan]:
        """Of each row."""
        sequences, tokens = self.ids.shape
        plans = self.plan.plans if isinstance(self.plan, BatchPlan) else (self.plan,) * sequences
        return [plan for plan in plans for _ in range(tokens)]

    def of_rows(self, logits: torch.Tensor) -> torch.Tensor:
        """(sequences, keep, vocabulary) of (rows, vocabulary)."""
        return logits.view(*self.ids.shape, -1)[:, -self.keep :]


class DecodeScheduler:
    """Runs one model for many callers, one pass at a time, first come first served.

    A step that joins an earlier one's pass delays requests between the two by one more row, not by one more pass:
    about a quarter of a token. Before a pass, the requests of the last one have half of its time to ask for their
    next token, unless they say that they have ended; otherwise requests split into groups that alternate, and each
    group pays for reading the weights.

    The size of a pass holds on this thread alone: a direct call of the model runs at the size that was set for it.

    Attributes:
        cache_support: how the model continues a text.
    """

    def __init__(self, elastic: ElasticModel):
        self._elastic = elastic
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._order = threading.Condition()  # steps wait in the order of their passes
        self._expected, self._patience = 0, 0.0  # steps to wait for, seconds
        self._waiting: deque[_Step] = deque()
        self._batch = lru_cache(_PLANS)(elastic.batch)
        with elastic.on_this_thread(elastic.planner.at_ratio(1.0)):
            self.cache_support = cache_support_of(elastic.model)
            self._together = self.cache_support.attention and _positions_are_given(elastic)
            self._step = decode_step_of(elastic.model) if self._together else None

    def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function on the thread that owns the model, after everything asked for before; returns its result."""
        return self._thread.submit(function, *args, **kwargs).result()

    def forward(self, ids: torch.Tensor, plan: Plan | BatchPlan, cache: TextCache, keep: int = 1) -> torch.Tensor:
        """One pass: logits (batch, keep, vocabulary) of the last `keep` positions (all for 0), at the size `plan`.

        Args:
            ids: (batch, tokens) that follow what `cache` holds.
        """
        if not self._together or not self._joins(cache, ids, keep):
            return self.call(self.run, ids, plan, cache, keep)
        step = _Step(ids, plan, cache, keep)
        with self._order:
            self._waiting.append(step)
            self._thread.submit(self._decode, step)
            self._order.notify()
        return step.logits.result()

    def run(self, ids: torch.Tensor, plan: Plan | BatchPlan, cache: TextCache, keep: int = 1) -> torch.Tensor:
        """As `forward`, for callers on the thread that owns the model."""
        if self._step is not None and ids.numel() <= _ROWS and _is_of_one_text(cache):
            return self._run_together([_Step(ids, plan, cache, keep)])[0]
        with self._elastic.on_this_thread(plan):
            return read(self._elastic.model, self.cache_support, ids, cache, keep)

    def leave(self) -> None:
        """A request of the last pass asks for no more: the next pass does not wait for it."""
        with self._order:
            self._expected -= 1
            self._order.notify()

    def chunk(self, tokens: int, sequences: int, most: int) -> int:
        """Tokens of a prompt to read per pass.

        Args:
            sequences: that are read alike.
            most: tokens of a pass.
        """
        if self._step is not None and tokens * sequences <= _SHORT:
            most = _ROWS
        return self.cache_support.chunk(tokens, max(1, most // sequences))

    def reads_alike(self, tokens: int) -> bool:
        """Whether a prompt's numbers are the same to the last bit however many of its tokens are read at once."""
        return isinstance(self._step, NativeStep) and 1 < tokens <= _SHORT

    def _joins(self, cache: TextCache, ids: torch.Tensor, keep: int) -> TypeGuard[DynamicCache]:
        """Whether a step with this cache may share a pass."""
        if not _is_of_one_text(cache):
            return False
        if self._step is not None:
            return ids.numel() <= _ROWS
        return ids.shape[1] == keep == 1 and 0 < cache.get_seq_length() <= _LONGEST

    def _decode(self, first: _Step) -> None:
        """Run `first`, and steps that wait behind it, in one pass; nothing if it has joined an earlier pass."""
        if not self._waiting or self._waiting[0] is not first:
            return
        with self._order:
            self._order.wait_for(lambda: len(self._waiting) >= self._expected, self._patience)
        steps, rows = [self._waiting.popleft()], first.rows
        while self._waiting and rows + self._waiting[0].rows <= _ROWS:
            steps.append(self._waiting.popleft())
            rows += steps[-1].rows
        full, began = bool(self._waiting), time.perf_counter()
        outcomes = self._outcomes(steps)
        self._patience = _PATIENCE * (time.perf_counter() - began)
        self._expected = 0 if full else len(steps) + len(self._waiting)
        for step, outcome in zip(steps, outcomes, strict=True):
            if isinstance(outcome, torch.Tensor):
                step.logits.set_result(outcome)
            else:
                step.logits.set_exception(outcome)

    def _outcomes(self, steps: Sequence[_Step]) -> Sequence[torch.Tensor | BaseException]:
        """Logits (sequences, keep, vocabulary) of each step, or the error of its pass."""
        if len(steps) == 1:
            try:
                return [self.run(steps[0].ids, steps[0].plan, steps[0].cache, steps[0].keep)]
            except BaseException as error:
                return [error]
        before = [step.cache.get_seq_length() for step in steps]
        try:
            return self._run_together(steps)
        except Exception:  # each step is run alone from where it was, so that only the faulty one fails
            for step, length in zip(steps, before, strict=True):
                grown = (layer for layer in cast(list[Any], step.cache.layers) if layer.keys is not None)
                for layer in grown:  # one may have grown its keys and not its values
                    layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]
            return [outcome for step in steps for outcome in self._outcomes([step])]

    @torch.inference_mode()
    def _run_together(self, steps: Sequence[_Step]) -> Sequence[torch.Tensor]:
        """Logits (sequences, keep, vocabulary) of each step, from one pass."""
        device = self._elastic.model.device
        plans = [plan for step in steps for plan in step.plans]
        order = sorted(range(len(plans)), key=lambda row: -plans[row].target_parameters)  # a batch's order
        whole = plans[0] if plans.count(plans[0]) == len(plans) else self._batch(tuple(plans[row] for row in order))
        ids = torch.cat([step.ids.flatten() for step in steps])[order].to(device)
        caches, places = [step.cache for step in steps], _places(steps, order)
        with self._elastic.on_this_thread(whole):
            logits = self._step(ids, caches, places) if self._step else self._run_stacked(ids, caches, places)
        back = sorted(range(len(order)), key=order.__getitem__)
        parts = logits[back].split([step.rows for step in steps])
        return [step.of_rows(part) for step, part in zip(steps, parts, strict=True)]

    def _run_stacked(self, ids: torch.Tensor, caches: Sequence[DynamicCache], places: Sequence[Rows]) -> torch.Tensor:
        """As a `DecodeStep` for one token of each sequence, by the model's own forward."""
        cache = _Stacked(caches, [[row for (row,) in own] for own in places], ids.device)
        lengths = torch.tensor(cache.lengths, device=ids.device)[:, None]
        longest = max(cache.lengths)
        logits: torch.Tensor = self._elastic.model(
            ids[:, None],
            attention_mask=torch.arange(longest + 1, device=ids.device) >= longest - lengths,
            position_ids=lengths,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, 0]


def _places(steps: Sequence[_Step], order: Sequence[int]) -> list[Rows]:
    """Where the tokens of each request's sequences are in a pass.

    Args:
        order: the pass's rows, as places in the requests' rows one after another.
    """
    place = iter(sorted(range(len(order)), key=order.__getitem__))
    return [[[next(place) for _ in range(step.ids.shape[1])] for _ in step.ids] for step in steps]


class _Stacked(Cache):
    """The caches of several requests as one for the length of a pass; what the pass adds goes to each request's cache.

    Args:
        caches: of the requests.
        places: of each request's sequences in the pass.

    Attributes:
        lengths: tokens that each of the pass's sequences has behind it.
    """

    def __init__(self, caches: Sequence[DynamicCache], places: Sequence[Sequence[int]], device: torch.device):
        found = {at: cache.get_seq_length() for cache, own in zip(caches, places, strict=True) for at in own}
        self.lengths = [found[at] for at in range(len(found))]
        order = sorted(range(len(found)), key=[at for own in places for at in own].__getitem__)
        rows_of = [torch.tensor(own, device=device) for own in places]
        layers = zip(*(cache.layers for cache in caches), strict=True)
        super().__init__(layers=[_StackedLayer(layer, rows_of, order, max(self.lengths)) for layer in layers])


class _StackedLayer(DynamicLayer):
    """One layer of `_Stacked`.

    Args:
        parts: the layer in each request's cache.
        rows: indices of each request's sequences in the pass.
        order: the pass's sequences, as places in the requests' sequences one after another.
        length: tokens of the longest.
    """

    def __init__(self, parts: Sequence[DynamicLayer], rows: Sequence[torch.Tensor], order: Sequence[int], length: int):
        super().__init__()
        self._parts, self._rows, self._order, self._length = parts, rows, order, length

    def get_seq_length(self) -> int:
        return self._length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [
            layer.update(key_states[rows], value_states[rows])
            for layer, rows in zip(self._parts, self._rows, strict=True)
        ]
        keys, values = zip(*parts, strict=True)
        return self._stack(keys), self._stack(values)

    def _stack(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        rows = [row.transpose(0, 1) for part in parts for row in part]  # (tokens, heads, features) each
        stacked = pad_sequence([rows[row] for row in self._order], batch_first=True, padding_side="left")
        return stacked.transpose(1, 2)


def _is_of_one_text(cache: TextCache) -> TypeGuard[DynamicCache]:
    """Whether it holds the start of a text in every layer: no sliding windows, no recurrent states."""
    return type(cache) is DynamicCache and all(type(layer) in (DynamicLayer, KeptLayer) for layer in cache.layers)


def _positions_are_given(elastic: ElasticModel) -> bool:
    """Whether the model takes each sequence's position from outside and treats it alike whatever the others' are."""
    rope = getattr(elastic.model.config.get_text_config(), "rope_parameters", None) or {}
    alone = rope.get("rope_type", "default") not in ("dynamic", "longrope")  # these look at the batch's longest
    return alone and "position_ids" in inspect.signature(elastic.model.forward).parameters
