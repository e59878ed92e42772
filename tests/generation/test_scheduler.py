"""Next tokens of several requests in one pass: what each gets alone, whoever else comes along, stops or fails."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from acip_core.artifacts.loading import open_model
from acip_core.generation import scheduler as turns
from acip_core.generation.cache import TextCache
from acip_core.generation.engine import Engine, SamplingConfig
from acip_core.generation.kept_cache import KeptLayer
from acip_core.generation.scheduler import DecodeScheduler
from acip_core.generation.tokens import Token
from acip_core.model.elastic_model import ElasticModel
from acip_core.model.size_planner import Plan
from acip_core.progress import finish
from tests.support.tiny import calibration, tiny_elastic

ALONE = ("mistral", "gemma2", "gemma3")  # sliding windows
PROMPTS = ("Hello there", "The capital of Germany is called", "x", "Once upon a time there was a queen who")
SIZES = (0.7, 1.0, 0.45, 0.85)
SAMPLINGS = (
    SamplingConfig(max_new_tokens=24),
    SamplingConfig(0.9, 0.9, 7, 17),
    SamplingConfig(1.2, 1.0, 3, 30),
    SamplingConfig(),
)
Steps = Iterator[dict[int, Token]]


@contextmanager
def held(owner: DecodeScheduler) -> Iterator[None]:
    """No turn begins within the block."""
    begun, gate = threading.Event(), threading.Event()
    owner._thread.submit(lambda: begun.set() or gate.wait())
    begun.wait()
    try:
        yield
    finally:
        gate.set()


def at_once(owner: DecodeScheduler, calls: Sequence[Callable[[], torch.Tensor]]) -> list[Future[torch.Tensor]]:
    """The calls' results; each is in line, in this order, before the first one's turn comes."""
    with ThreadPoolExecutor(len(calls)) as pool, held(owner):
        results = []
        for call in calls:
            queued = owner._thread._work_queue.qsize()
            results.append(pool.submit(call))
            while owner._thread._work_queue.qsize() == queued:
                time.sleep(0.001)
    return results


def passes(elastic: ElasticModel) -> list[int]:
    """Grows by the sequences, or the tokens of short texts, of every pass of the model from now on."""
    rows: list[int] = []
    elastic.model.get_input_embeddings().register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    return rows


def prefilled(elastic: ElasticModel, plan, rows: int, length: int) -> DynamicCache:
    """The cache behind a text of `length` tokens, in each of `rows` sequences."""
    cache = DynamicCache(config=elastic.model.config)
    with torch.inference_mode(), elastic.at(plan):
        elastic.model(calibration()[:rows, :length], past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize("adapters", [0, 2])
def test_steps_together_are_steps_alone(family: str, adapters: int) -> None:
    elastic = tiny_elastic(family, adapter_rank=adapters)
    owner = DecodeScheduler(elastic)
    one, two, three, four = (elastic.planner.at_ratio(size) for size in SIZES)
    requests = [(one, 1, 5), (elastic.batch([two, three]), 2, 12), (three, 1, 1), (two, 1, 23), (four, 2, 5)]
    alone, together = ([prefilled(elastic, *request) for request in requests] for _ in range(2))
    rows = passes(elastic)
    for step in range(3):
        ids = [calibration()[:count, 24 + step, None] for _, count, _ in requests]
        expected = [owner.run(x, plan, cache) for x, (plan, _, _), cache in zip(ids, requests, alone, strict=True)]
        rows.clear()
        calls = [
            lambda x=x, plan=plan, cache=cache: owner.forward(x, plan, cache)
            for x, (plan, _, _), cache in zip(ids, requests, together, strict=True)
        ]
        for result, logits in zip(at_once(owner, calls), expected, strict=True):
            torch.testing.assert_close(result.result(), logits, rtol=1e-4, atol=1e-4)
        assert rows == ([1, 2, 1, 1, 2] if family in ALONE else [7])
    for a, b in zip(alone, together, strict=True):
        for own, other in zip(a.layers, b.layers, strict=True):
            torch.testing.assert_close(own.keys, other.keys, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(own.values, other.values, rtol=1e-4, atol=1e-4)


def in_step(engine: Engine, requests: Sequence[Steps], after: Callable[[int], None] = lambda count: None) -> list[str]:
    """Texts of the requests' first columns, what they ask for in one round being in line before the first turn."""
    texts, running, rounds = ["" for _ in requests], dict(enumerate(requests)), 0
    with ThreadPoolExecutor(len(requests)) as pool:
        while running:
            with held(engine._scheduler):
                steps = {i: pool.submit(next, request, None) for i, request in running.items()}
                while engine._scheduler._thread._work_queue.qsize() + sum(f.done() for f in steps.values()) < len(
                    steps
                ):
                    time.sleep(0.001)
            for i, future in steps.items():
                step = future.result()
                if step is None:
                    del running[i]
                else:
                    texts[i] += step[0].text if 0 in step else ""
            rounds += 1
            after(rounds)
    return texts


def test_a_pass_waits_for_those_of_the_last_one_and_for_none_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_PATIENCE", 1e5)  # of a pass's milliseconds: a minute and more
    engine = Engine(tiny_elastic("llama"))
    engine.ends, plan = frozenset(), engine.elastic.planner.at_ratio(0.7)
    first, second = (engine.stream("Hello", plan, SamplingConfig(max_new_tokens=count)) for count in (30, 20))
    next(first), next(second)  # both have read their prompts
    rows = passes(engine.elastic)
    with ThreadPoolExecutor(2) as pool:
        both = pool.submit(lambda: [time.sleep(0.005) for _ in first]), pool.submit(list, second)
        for each in both:
            each.result(60)  # one that waits for what has ended takes longer
    together = rows[rows.index(2) :]  # once they have met
    assert together == sorted(together, reverse=True) and 2 in together[1:] and sum(rows) == 29 + 19


def test_visitors_at_once_read_what_they_read_alone(family: str) -> None:
    engine = Engine(tiny_elastic(family, adapter_rank=2))
    engine.ends = frozenset()  # run on, so that all of them run at once
    planner = engine.elastic.planner

    def requests() -> list[Steps]:
        singles = zip(PROMPTS, SIZES, SAMPLINGS, strict=True)
        compared = engine.compare("Good morning", [planner.at_ratio(0.6), planner.at_ratio(0.9)], SAMPLINGS[1])
        return [engine.compare(p, [planner.at_ratio(size)], sampling) for p, size, sampling in singles] + [compared]

    alone = ["".join(step[0].text for step in request if 0 in step) for request in requests()]
    rows = passes(engine.elastic)
    assert in_step(engine, requests()) == alone
    assert max(rows) == 2 if family in ALONE else 6 in rows


def test_who_stops_takes_nobody_along() -> None:
    engine, cancel = Engine(tiny_elastic()), threading.Event()
    plan, sampling = engine.elastic.planner.at_ratio(0.7), SamplingConfig(1.0, seed=1, max_new_tokens=40)
    alone = ["".join(token.text for token in engine.stream(prompt, plan, sampling)) for prompt in PROMPTS]
    requests = [
        engine.compare(prompt, [plan], sampling, cancel if i == 1 else None) for i, prompt in enumerate(PROMPTS)
    ]
    rows = passes(engine.elastic)
    texts = in_step(engine, requests, lambda count: cancel.set() if count == 6 else None)
    assert len(texts[1]) <= 6 and alone[1].startswith(texts[1])
    assert [texts[i] for i in (0, 2, 3)] == [alone[i] for i in (0, 2, 3)]
    assert 4 in rows and 3 in rows


def test_who_fails_takes_nobody_along() -> None:
    elastic = tiny_elastic()
    owner, plan = DecodeScheduler(elastic), elastic.planner.at_ratio(0.7)
    alone, together = ([prefilled(elastic, plan, 1, length) for length in (4, 9, 2)] for _ in range(2))
    ids = [torch.tensor([[token]]) for token in (5, 10_000, 7)]  # there is no token 10,000
    results = at_once(
        owner, [lambda x=x, cache=cache: owner.forward(x, plan, cache) for x, cache in zip(ids, together, strict=True)]
    )
    with pytest.raises(IndexError):
        results[1].result()
    for i in (0, 2):
        torch.testing.assert_close(results[i].result(), owner.run(ids[i], plan, alone[i]))
    assert [cache.get_seq_length() for cache in together] == [5, 9, 3]


@pytest.mark.parametrize("family", ["llama", "opt"])  # with a step of its own, and stacked
def test_a_pass_that_breaks_off_leaves_no_trace(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elastic = tiny_elastic(family)
    owner, plan = DecodeScheduler(elastic), elastic.planner.at_ratio(0.7)
    caches = [prefilled(elastic, plan, 1, length) for length in (4, 9)]
    expected = [owner.run(torch.tensor([[5]]), plan, prefilled(elastic, plan, 1, length)) for length in (4, 9)]
    update, calls = DynamicLayer.update, []

    def breaking(self, *args):
        calls.append(self)
        if len(calls) == 3:  # the first layer's caches have grown by then
            raise RuntimeError("out of memory")
        return update(self, *args)

    monkeypatch.setattr(DynamicLayer, "update", breaking)
    results = at_once(owner, [lambda cache=cache: owner.forward(torch.tensor([[5]]), plan, cache) for cache in caches])
    for result, logits in zip(results, expected, strict=True):
        torch.testing.assert_close(result.result(), logits, rtol=1e-4, atol=1e-4)
    layers = len(caches[0].layers)
    assert len(calls) == 3 + 2 * layers and [cache.get_seq_length() for cache in caches] == [5, 10]


@pytest.mark.parametrize("tokens", [1, 4])
def test_short_prompts_share_a_pass_with_texts(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    elastic = tiny_elastic()
    owner, plans = DecodeScheduler(elastic), [elastic.planner.at_ratio(size) for size in (1.0, 0.5, 0.7)]
    prompt = calibration()[:1, :tokens]

    def asked() -> list[tuple[torch.Tensor, Plan, TextCache, int]]:
        texts = [(torch.tensor([[5]]), plan, prefilled(elastic, plan, 1, 4), 1) for plan in plans[:2]]
        return [*texts, (prompt, plans[2], owner.cache_support.cache(elastic.model, 8), 0)]

    expected = [owner.run(*request) for request in asked()]
    fail, rows = [True], passes(elastic)
    extend = KeptLayer.extend

    def failing(layer: KeptLayer, count: int, *like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if fail and layer.get_seq_length() == 0 and rows[-1:] == [2 + tokens]:
            fail.clear()
            raise RuntimeError("out of memory")
        return extend(layer, count, *like)

    for broken in (False, True):
        rows.clear()
        fail[:] = [True] * broken
        monkeypatch.setattr(KeptLayer, "extend", failing)
        requests = asked()
        rows.clear()
        results = at_once(owner, [lambda request=request: owner.forward(*request) for request in requests])
        for result, logits in zip(results, expected, strict=True):
            torch.testing.assert_close(result.result(), logits, rtol=1e-4, atol=1e-4)
        assert rows == [2 + tokens, *([1, 1, tokens] if broken else [])]
        assert [cache.get_seq_length() for _, _, cache, _ in requests] == [5, 5, tokens]


def test_long_texts_run_alone_and_a_pass_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_LONGEST", 20), ("_ROWS", 8)):
        monkeypatch.setattr(turns, name, value)
    elastic = tiny_elastic("opt")  # whose caches are stacked
    owner, plan = DecodeScheduler(elastic), elastic.planner.at_ratio(0.7)
    shapes = [(3, 5), (3, 20), (1, 21), (3, 4), (2, 4)]
    caches = [prefilled(elastic, plan, *shape) for shape in shapes]
    rows = passes(elastic)
    calls = [
        lambda cache=cache: owner.forward(torch.full((len(cache.layers[0].keys), 1), 5), plan, cache)
        for cache in caches
    ]
    assert [result.result().shape[0] for result in at_once(owner, calls)] == [3, 3, 1, 3, 2]
    assert rows == [6, 1, 5]


def test_slices_of_prompts_keep_their_turn() -> None:
    elastic = tiny_elastic()
    owner, plan = DecodeScheduler(elastic), elastic.planner.at_ratio(0.7)
    first, second, third = (prefilled(elastic, plan, 1, 4) for _ in range(3))
    empty, token = DynamicCache(config=elastic.model.config), torch.tensor([[5]])
    rows = passes(elastic)
    asked = [(token, first), (calibration()[:1], empty), (token, second), (token, third)]
    at_once(owner, [lambda ids=ids, cache=cache: owner.forward(ids, plan, cache) for ids, cache in asked])
    assert rows == [3, 1]
    assert [cache.get_seq_length() for cache in (first, second, third, empty)] == [5, 5, 5, 32]


def test_nothing_is_kept_of_who_has_gone() -> None:
    engine = Engine(tiny_elastic())
    made: list[weakref.ref] = []
    cache = engine.cache
    engine.cache = lambda *args: made.append(weakref.ref(kept := cache(*args))) or kept  # type: ignore[assignment]
    plan = engine.elastic.planner.at_ratio(0.7)
    in_step(engine, [engine.compare(prompt, [plan], SamplingConfig(max_new_tokens=6)) for prompt in PROMPTS])
    stopped = [engine.compare(prompt, [plan]) for prompt in PROMPTS]
    for request in stopped:
        next(request), next(request), next(request)
        request.close()
    engine._scheduler.call(lambda: None)
    gc.collect()
    assert len(made) == 8 and not any(ref() for ref in made)
    assert not engine._scheduler._waiting


@pytest.mark.real
def test_the_default_models_texts_are_the_same(default_gguf: Path) -> None:
    engine = Engine(finish(open_model()).elastic)
    planner, sampling = engine.elastic.planner, SamplingConfig(max_new_tokens=12)
    alone, together = (
        [engine.compare(p, [planner.at_ratio(size)], sampling) for p, size in zip(PROMPTS, SIZES, strict=True)]
        for _ in range(2)
    )
    rows = passes(engine.elastic)
    expected = ["".join(step[0].text for step in steps) for steps in alone]
    assert in_step(engine, together) == expected
    assert 4 in rows
