"""What the full model thinks of texts of other sizes: the same as if it had read them alone."""

from __future__ import annotations

import threading

import pytest
import torch

from acip_core.generation.engine import Engine, SamplingConfig
from acip_core.generation.token_scorer import SLICE
from acip_core.ui.columns import agreement
from tests.support.tiny import tiny_elastic


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("length", [1, 16, 40])
def test_probabilities_are_those_of_the_full_model(temperature: float, length: int) -> None:
    elastic = tiny_elastic(fisher=True, adapter_rank=2)
    engine = Engine(elastic)
    plans = [elastic.planner.at_ratio(ratio) for ratio in (0.5, 1.0, 0.7)]
    prompt = "Once upon a time there was"
    sampling = SamplingConfig(temperature=temperature, max_new_tokens=length)
    ids: dict[int, list[int]] = {0: [], 1: [], 2: []}
    found: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for step in engine.compare(prompt, plans, sampling, judge=True):
        for i, token in step.items():
            ids[i] += [] if token.id is None else [token.id]
            found[i] += token.probabilities
    start = elastic.tokenizer(prompt).input_ids
    elastic.set_size(1.0)
    for i, own in ids.items():
        with torch.inference_mode():
            logits = elastic.model(torch.tensor([start + own])).logits[0, len(start) - 1 : -1]
        expected = logits.softmax(-1).gather(-1, torch.tensor(own)[:, None]).flatten()
        torch.testing.assert_close(torch.tensor(found[i]), expected, rtol=1e-3, atol=1e-5)


def test_texts_are_the_same_whether_judged_or_not() -> None:
    elastic = tiny_elastic(adapter_rank=2)
    engine = Engine(elastic)
    plans = [elastic.planner.at_ratio(ratio) for ratio in (1.0, 0.5)]
    sampling = SamplingConfig(temperature=0.8, seed=3, max_new_tokens=30)
    texts = [
        [[token.text for token in step.values()] for step in engine.compare("Hello", plans, sampling, judge=judge)]
        for judge in (False, True)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("length", range(SLICE - 1, SLICE + 3))
def test_a_text_may_be_stopped_whether_or_not_tokens_wait_to_be_read(length: int) -> None:
    elastic = tiny_elastic(adapter_rank=2)
    plans = [elastic.planner.at_ratio(ratio) for ratio in (0.8, 0.5)]
    cancel = threading.Event()
    written = read = 0
    steps = Engine(elastic).compare("Hello", plans, SamplingConfig(max_new_tokens=200), judge=True, cancel=cancel)
    for i, step in enumerate(steps):
        written += step[0].id is not None
        read += len(step[0].probabilities)
        if i == length - 1:
            cancel.set()
    assert step[0].finish == "stopped" and read == written


@pytest.mark.parametrize(
    ("ids", "full", "finished", "expected"),
    [
        ([], [], False, (None, None)),
        ([1, 2, 3], [1, 2, 3], False, (None, 1.0)),
        ([1, 2, 9, 4], [1, 2, 3, 4], True, (2, 0.75)),
        ([1, 2], [1, 2, 3, 4], False, (None, 1.0)),
        ([1, 2], [1, 2, 3, 4], True, (2, 0.5)),
        ([1, 2, 3, 4], [1], True, (1, 0.25)),
    ],
)
def test_agreement(ids: list[int], full: list[int], finished: bool, expected: tuple[int | None, float | None]) -> None:
    assert agreement(ids, full, finished) == expected
