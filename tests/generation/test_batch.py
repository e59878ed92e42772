"""Several sizes in one batch: each row as it is alone, columns that advance together and leave when they are done."""

from __future__ import annotations

import threading
from functools import cache

import pytest
import torch
from transformers import DynamicCache

from acip_core.generation import engine as generate
from acip_core.generation.engine import Engine, SamplingConfig
from acip_core.generation.tokens import Token
from acip_core.model.elastic_model import ElasticModel
from acip_core.model.size_planner import DENSE
from tests.support.tiny import calibration, tiny_elastic

SIZES = (1.0, 0.85, 0.7, 0.55, 0.45)
PROMPT = "Hello there, how are you today? "


@pytest.fixture(params=[0, 2], ids=["plain", "adapters"])
def adapter_rank(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def elastic(family: str, adapter_rank: int) -> ElasticModel:
    return engine_of(family, adapter_rank).elastic


@cache
def engine_of(family: str, adapter_rank: int) -> Engine:
    """One for all tests: texts depend on none that were written before."""
    return Engine(tiny_elastic(family, adapter_rank=adapter_rank))


@cache
def alone(family: str, adapter_rank: int, size: float, sampling: SamplingConfig) -> list[Token]:
    """What a size says with nobody beside it, which depends on no order."""
    engine = engine_of(family, adapter_rank)
    stream = engine.stream(PROMPT, engine.elastic.planner.at_ratio(size), sampling)
    return [token for token in stream if token.count]


def texts(steps: list[dict[int, Token]], columns: int) -> list[str]:
    return ["".join(step[i].text for step in steps if i in step) for i in range(columns)]


@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_every_row_is_as_it_is_alone(elastic: ElasticModel, tokens: int) -> None:
    ids = calibration()[:5, :tokens]
    plans = [elastic.planner.at_ratio(size) for size in SIZES]
    assert len({plan.ranks for plan in plans}) == len(plans)
    with torch.no_grad():
        with elastic.at(elastic.batch(plans)):
            together = elastic.model(ids).logits
        for row, plan in enumerate(plans):
            with elastic.at(plan):
                alone = elastic.model(ids[row : row + 1]).logits[0]
            torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)


def test_layers_that_agree_run_as_one(family: str) -> None:
    elastic = tiny_elastic(family)
    plans = [elastic.planner.at_ratio(size) for size in (1.0, 0.9)]
    ranks = elastic.batch(plans).states
    assert any(rank == DENSE for rank in ranks) and not all(rank == DENSE for rank in ranks)
    same = elastic.batch([plans[1], plans[1]])
    assert tuple(same.states) == plans[1].states


def test_sizes_may_come_in_any_order() -> None:
    elastic = tiny_elastic()
    plans = [elastic.planner.at_ratio(size) for size in (0.5, 0.9, 1.0)]
    ids = torch.arange(5, 21)[None]
    with torch.inference_mode(), elastic.at(elastic.batch(plans)):
        together = elastic.model(ids.repeat(3, 1), use_cache=False).logits
    for row, plan in zip(together, plans, strict=True):
        with torch.inference_mode(), elastic.at(plan):
            assert torch.allclose(row, elastic.model(ids, use_cache=False).logits[0], atol=1e-4)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 1, 3), (1, 1, 4)])
@pytest.mark.parametrize(
    "sampling", [SamplingConfig(max_new_tokens=24), SamplingConfig(0.9, 0.9, 7, 24)], ids=["greedy", "drawn"]
)
def test_columns_say_what_they_say_alone(
    family: str, adapter_rank: int, order: tuple[int, ...], sampling: SamplingConfig
) -> None:
    engine = engine_of(family, adapter_rank)
    plans = [engine.elastic.planner.at_ratio(SIZES[i]) for i in order]
    steps = list(engine.compare(PROMPT, plans, sampling))
    for column, i in enumerate(order):
        expected = alone(family, adapter_rank, SIZES[i], sampling)
        assert [step[column] for step in steps if column in step and step[column].count] == expected


def test_a_finished_column_costs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    elastic = tiny_elastic()
    engine = Engine(elastic)
    plans = [elastic.planner.at_ratio(size) for size in (1.0, 0.7, 0.5)]
    sampling = SamplingConfig(1.5, seed=3, max_new_tokens=200)
    batches: list[int] = []
    forward = engine.forward

    def watched(ids: torch.Tensor, plan, cache: DynamicCache, keep: int = 1) -> torch.Tensor:
        batches.append(len(ids))
        return forward(ids, plan, cache, keep)

    monkeypatch.setattr(engine, "forward", watched)
    steps = list(engine.compare(PROMPT, plans, sampling))
    last = {i: [step[i] for step in steps if i in step][-1] for i in range(3)}
    ends = sorted(token.count for token in last.values() if token.finish == "end")
    assert ends and ends[0] < max(token.count for token in last.values())  # one ended its text before another
    assert batches[-1] < 3 and batches == sorted(batches, reverse=True)
    tokens = [token for step in steps for token in step.values()]
    reads = sum(token.count == 0 for token in tokens)
    assert sum(batches) == reads + sum(token.count > 0 and not token.finish for token in tokens)


def test_cancelling_stops_all_columns_within_a_token() -> None:
    elastic = tiny_elastic()
    cancel = threading.Event()
    plans = [elastic.planner.at_ratio(size) for size in (1.0, 0.6)]
    seen = []
    for step in Engine(elastic).compare(PROMPT, plans, SamplingConfig(max_new_tokens=60), cancel):
        seen.append(step)
        if step[0].count == 4:
            cancel.set()
    assert {token.finish for token in seen[-1].values()} == {"stopped"} and seen[-1][0].count == 4


def test_columns_count_in_the_memory_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_CACHED_TOKENS", 512)
    elastic = tiny_elastic()
    engine = Engine(elastic)
    plans, settings = [elastic.planner.at_ratio(1.0)] * 5, SamplingConfig(max_new_tokens=80)
    first = engine.compare(PROMPT, plans, settings)  # more than the limit, but nobody else is there
    assert next(first)[4].ahead == 0
    assert next(engine.stream(PROMPT, plans[0], settings)).ahead == 1
    first.close()
    assert next(engine.stream(PROMPT, plans[0], settings)).ahead == 0
