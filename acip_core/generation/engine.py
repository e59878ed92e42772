"""Streaming decoding of one elastic model for many callers at once, each at its own size.

One thread owns the model and runs one forward pass at a time. Every pass (a token, a slice of a prompt, a slice of an
evaluation window) sets the size first. `DecodeScheduler` runs passes in the order they are asked for and joins tokens
that wait together, so callers interleave token by token. Every caller has its own key-value cache, so no caller sees
another's size. Knows nothing of pages or sessions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import ParamSpec, TypeVar, cast

import torch
from transformers import PreTrainedModel

from ..errors import GenerationError, shown
from ..evaluation.perplexity import Perplexity, measure_perplexity, token_losses
from ..model.context import context_length
from ..model.elastic_model import BatchPlan, ElasticModel
from ..model.size_planner import Plan
from ..model.thread_pools import on_one_thread, release_threads
from .admission import AdmissionQueue
from .cache import TextCache, WholeText, select_rows
from .chat_template import apply_chat_template
from .prompt_cache import PromptCache
from .sampling import SamplingConfig, check_sampling, choose_tokens
from .scheduler import DecodeScheduler
from .token_scorer import with_full_model_probabilities
from .tokens import Detokenizer, Token, TokenSteps

PREFILL_CHUNK = 256  # prompt tokens per pass: about half a second on two cores, so a long prompt blocks nobody
_MEASURE_CHUNK = 128  # tokens of an evaluation window per pass; smaller, for every chunk also pays for the head
_CACHED_TOKENS = 32_768  # of all callers together; their caches take 1.5 GB for the default model
_ACTIVE, _WAITING = 16, 40  # callers that generate at once; callers in the queue
_PATIENCE = 0.2  # seconds between two looks at the queue
_MAX_CHARACTERS = 2_000_000  # rejected before the tokenizer spends seconds on it
P = ParamSpec("P")
T = TypeVar("T")


class Engine:
    """Serves one elastic model to many callers, each on its own thread and at its own size.

    One thread owns the model and runs requests in the order they come, a token or a slice of a prompt at a time.

    Args:
        kept: tokens of short prompts to keep for who asks the same at the same size; of a model whose weights change
            none may be kept.

    Attributes:
        ends: ids that end a text; without any, texts are as long as was asked for.
    """

    def __init__(self, elastic: ElasticModel, kept: int = 0):
        self.elastic = elastic
        self._scheduler = DecodeScheduler(elastic)
        self._prompts = PromptCache(kept) if kept else None
        self.context = context_length(elastic.model.config)  # tokens
        self.ends = _end_ids(elastic)
        self._queue = AdmissionQueue(_ACTIVE, _WAITING, max(_CACHED_TOKENS, 2 * self.context))
        release_threads()  # of who has loaded the model

    def stream(
        self,
        prompt: str,
        plan: Plan,
        sampling: SamplingConfig = SamplingConfig(),
        cancel: threading.Event | None = None,
        chat: bool = False,
    ) -> Iterator[Token]:
        """Continue `prompt` at the size `plan`, one token at a time.

        Args:
            cancel: set it to stop within one token.
            chat: put the prompt into the model's chat template as a user's message.

        Raises:
            GenerationError: the prompt is empty or too long, or a setting is out of range, raised at once; or too many
                are waiting, raised on the first step.
        """
        steps = self.compare(prompt, (plan,), sampling, cancel, chat)
        return (step[0] for step in steps)

    def compare(
        self,
        prompt: str,
        plans: Sequence[Plan],
        sampling: SamplingConfig = SamplingConfig(),
        cancel: threading.Event | None = None,
        chat: bool = False,
        judge: bool = False,
    ) -> TokenSteps:
        """Continue `prompt` at several sizes side by side, one token of each per step, in one batch.

        Weights are read once for all sizes, so five cost little more than the largest alone; a size that is finished
        leaves the batch.

        Args:
            plans: of the sizes, in any order.
            cancel: set it to stop within one token.
            chat: put the prompt into the model's chat template as a user's message.
            judge: let the full model read what is written and say how likely it finds it, a slice of tokens at a time.

        Returns:
            TokenSteps: the tokens of those that are running, by index into `plans`.

        Raises:
            GenerationError: as `stream`.
        """
        sampling = check_sampling(sampling, self.context)
        ids = self._encode(prompt, chat)
        room = self.context - sampling.max_new_tokens
        if len(ids) > room:
            raise GenerationError(
                f"The prompt has {len(ids):,} tokens, but at most {room:,} fit beside {sampling.max_new_tokens:,} new "
                f"ones in this model's context of {self.context:,}; shorten the prompt."
            )
        cancel = cancel or threading.Event()
        tokens = (1 + judge) * len(plans) * (len(ids) + sampling.max_new_tokens)
        steps = self._columns(ids, plans, sampling, cancel)
        if judge:
            full, cache = self.elastic.planner.at_ratio(1.0), self.cache(len(ids) + sampling.max_new_tokens)
            chunk = self._scheduler.chunk(len(ids), 1, PREFILL_CHUNK)
            steps = with_full_model_probabilities(
                steps, ids, lambda new, cache, keep: self.forward(new, full, cache, keep), cache, chunk
            )
        return on_one_thread(self._when_admitted(tokens, len(ids), len(plans), steps, cancel))

    def measure(self, windows: torch.Tensor, plan: Plan, cancel: threading.Event | None = None) -> Iterator[Perplexity]:
        """Perplexity of the size `plan`, window by window; other callers' passes run in between.

        Args:
            windows: (windows, length) token ids.
            cancel: set it to stop within one slice of a window; what was yielded last then stands.
        """
        model = _SlicedModel(self, plan, cancel or threading.Event())
        try:
            yield from on_one_thread(measure_perplexity(cast(PreTrainedModel, model), windows))
        except _Cancelled:
            return

    def losses(
        self, windows: Sequence[torch.Tensor], plan: Plan, cancel: threading.Event | None = None
    ) -> Iterator[torch.Tensor]:
        """Loss of every token but the first of each window at the size `plan`, as `measure`.

        Args:
            windows: (length,) token ids each, of any length above 1.

        Returns:
            (length − 1,) nats per window, one at a time.
        """
        model = _SlicedModel(self, plan, cancel or threading.Event())
        try:
            yield from on_one_thread(token_losses(cast(PreTrainedModel, model), w[None])[0] for w in windows)
        except _Cancelled:
            return

    def decode_seconds(self, plan: Plan, steps: int, behind: int = 32) -> Iterator[float]:
        """Seconds of each of `steps` greedy decoding steps at the size `plan`, without waiting for other callers.

        Args:
            behind: tokens of the prompt.
        """
        behind = max(1, min(behind, self.context - steps))
        cache = self.cache(behind + steps + 1)
        ids = torch.arange(3, 3 + behind)[None] % self.elastic.model.config.get_text_config().vocab_size
        ids, _ = self.call(self._timed, ids, plan, cache)
        for _ in range(steps):
            ids, seconds = self.call(self._timed, ids, plan, cache)
            yield seconds

    def _timed(self, ids: torch.Tensor, plan: Plan, cache: TextCache) -> tuple[torch.Tensor, float]:
        start = time.perf_counter()
        token = int(self._scheduler.run(ids, plan, cache)[0, -1].argmax())  # waits for the device
        return torch.tensor([[token]]), time.perf_counter() - start

    def forward(self, ids: torch.Tensor, plan: Plan | BatchPlan, cache: TextCache, keep: int = 1) -> torch.Tensor:
        """One pass: logits (batch, keep, vocabulary) of the last `keep` positions (all for 0), at the size `plan`.

        Args:
            ids: (batch, tokens) that follow what `cache` holds.
        """
        return self._scheduler.forward(ids, plan, cache, keep)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on the thread that owns the model, between two passes, and return its result."""
        return self._scheduler.call(function, *args, **kwargs)

    def cache(self, tokens: int) -> TextCache:
        """An empty cache of a text of so many tokens, for `forward`."""
        return self._scheduler.cache_support.cache(self.elastic.model, tokens)

    def _when_admitted(
        self, tokens: int, prompt_tokens: int, columns: int, steps: TokenSteps, cancel: threading.Event
    ) -> TokenSteps:
        """The steps, once there is room for their tokens; until then, how many callers come first."""
        with self._queue.ticket(tokens) as ticket:
            while ahead := self._queue.ahead(ticket, _PATIENCE):
                finish = "stopped" if cancel.is_set() else ""
                yield dict.fromkeys(range(columns), Token("", 0, 0, prompt_tokens, finish, ahead))
                if finish:
                    return
            yield from steps

    def _encode(self, prompt: str, chat: bool) -> list[int]:
        if not isinstance(prompt, str):
            raise GenerationError(f"The prompt must be a text, not {shown(prompt)}.")
        if not prompt.strip():
            raise GenerationError("The prompt is empty; type a few words to continue.")
        if len(prompt) > _MAX_CHARACTERS:
            raise GenerationError(f"The prompt has {len(prompt):,} characters; at most {_MAX_CHARACTERS:,} are read.")
        text = prompt.encode("utf-8", "replace").decode()  # half a surrogate pair is no text for a tokenizer
        tokenizer = self.elastic.tokenizer
        text = apply_chat_template(tokenizer, text) if chat else text
        ids = cast(list[int], tokenizer(text, add_special_tokens=not chat, verbose=False).input_ids)
        if ids == tokenizer("", add_special_tokens=not chat).input_ids:  # at most a start token, and nothing to start
            raise GenerationError("This model's tokenizer makes no tokens of the prompt; type a few words to continue.")
        return ids

    def _columns(
        self, ids: list[int], plans: Sequence[Plan], sampling: SamplingConfig, cancel: threading.Event
    ) -> TokenSteps:
        """The prompt continued at several sizes in step: tokens of the sizes still running, by index into `plans`."""
        words = [Detokenizer(self.elastic.tokenizer, ids) for _ in plans]
        texts = [list(ids) for _ in plans]
        seeded = [torch.Generator().manual_seed(sampling.seed) for _ in plans]
        running = sorted(range(len(plans)), key=lambda i: -plans[i].target_parameters)  # a batch's order
        batch = self._batch(plans, running)
        total, logits = len(ids), torch.empty(0)
        cache = self.cache(total + sampling.max_new_tokens)
        chunk = self._scheduler.chunk(total, len(plans), PREFILL_CHUNK)
        prompts = self._prompts if len(plans) == 1 and self._scheduler.reads_alike(total) else None
        known = prompts.fill(cache, plans[0], ids) if prompts else 0
        for start in range(known, total, chunk):
            if cancel.is_set():
                yield {i: Token("", 0, start, total, "stopped") for i in running}
                return
            logits = self.forward(torch.tensor([ids[start : start + chunk]] * len(running)), batch, cache)
            yield {i: Token("", 0, min(start + chunk, total), total) for i in running}
        if prompts and not known:
            prompts.keep(cache, plans[0], ids)
        for count in range(1, sampling.max_new_tokens + 1):
            tokens, step = [], {}
            chosen = choose_tokens(logits[:, -1], sampling, [seeded[i] for i in running], [texts[i] for i in running])
            for i, token in zip(running, chosen, strict=True):
                finish = "end" if token in self.ends else "length" if count == sampling.max_new_tokens else ""
                text = words[i].flush() if finish == "end" else words[i].push(token)
                text += words[i].flush() if finish == "length" else ""
                step[i] = Token(text, count, total, total, finish, id=token)
                texts[i].append(token)
                if not finish:
                    tokens.append(token)
            if not tokens or cancel.is_set():
                self._scheduler.leave()
            yield step
            left = [row for row, i in enumerate(running) if not step[i].finish]
            if len(left) < len(running):
                running = [running[row] for row in left]
                if not running:
                    return
                select_rows(cache, torch.tensor(left, device=logits.device))
                batch = self._batch(plans, running)
            if cancel.is_set():
                yield {i: Token(words[i].flush(), count, total, total, "stopped") for i in running}
                return
            logits = self.forward(torch.tensor(tokens)[:, None], batch, cache)

    def _batch(self, plans: Sequence[Plan], chosen: list[int]) -> Plan | BatchPlan:
        return plans[chosen[0]] if len(chosen) == 1 else self.elastic.batch([plans[i] for i in chosen])


class _Cancelled(Exception):
    """Leaves a measurement between two slices of a window."""


class _SlicedModel:
    """Stands in for the model while a text is measured: the same logits, computed a slice at a time."""

    def __init__(self, engine: Engine, plan: Plan, cancel: threading.Event):
        self._engine, self._plan, self._cancel = engine, plan, cancel
        self.device = engine.elastic.model.device

    def __call__(self, ids: torch.Tensor, use_cache: bool = False) -> SimpleNamespace:
        support, logits = self._engine._scheduler.cache_support, torch.empty(0)
        size = support.chunk(ids.shape[1], _MEASURE_CHUNK)
        cache = support.cache(self._engine.elastic.model) if size < ids.shape[1] else WholeText()
        for start in range(0, ids.shape[1], size):
            if self._cancel.is_set():
                raise _Cancelled
            part = self._engine.forward(ids[:, start : start + size], self._plan, cache, keep=0)
            logits = logits if start else part.new_empty(*ids.shape, part.shape[-1])  # never all of them twice
            logits[:, start : start + size] = part
        return SimpleNamespace(logits=logits)


def _end_ids(elastic: ElasticModel) -> frozenset[int]:
    """Ids that end a text: the generation settings' and the tokenizer's."""
    configured = getattr(elastic.model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list | tuple) else [configured]
    return frozenset(id for id in (*listed, elastic.tokenizer.eos_token_id) if id is not None)


def finished_texts(steps: TokenSteps) -> Iterator[tuple[int, str]]:
    """Index and whole text of each size of a batch as it ends; sizes that were stopped are left out."""
    texts: dict[int, str] = {}
    for step in steps:
        for i, token in step.items():
            texts[i] = texts.get(i, "") + token.text
            if token.finish and token.finish != "stopped":
                yield i, texts[i]
