"""Streaming decoding: equal to `generate`, unmoved by neighbours, cancellable, reproducible, firm on bad input."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from acip_core.errors import GenerationError
from acip_core.evaluation.perplexity import measure_perplexity
from acip_core.generation import engine as generate
from acip_core.generation.engine import Engine, SamplingConfig
from acip_core.generation.sampling import choose_tokens
from acip_core.generation.tokens import Detokenizer
from acip_core.model.base_model import load_base
from acip_core.model.elastic_model import ElasticModel
from tests.support.tiny import tiny_elastic

pytestmark = pytest.mark.long

PROMPT = "The capital of Germany is called"


@pytest.fixture(scope="module")
def tokenizer(default_gguf: Path) -> PreTrainedTokenizerBase:
    """The default model's: a byte-level one, whose tokens may end within a character."""
    return load_base(device="cpu").tokenizer


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts and windows of tiny models are cut too."""
    monkeypatch.setattr(generate, "PREFILL_CHUNK", 16)
    monkeypatch.setattr(generate, "_MEASURE_CHUNK", 16)


def _text(steps) -> str:
    return "".join(step.text for step in steps)


def test_long_prompts_together_never_exceed_the_memory(elastic: ElasticModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_CACHED_TOKENS", 100)  # twice the context of 256 counts instead
    monkeypatch.setattr(generate, "_PATIENCE", 0.0)
    engine = Engine(elastic)
    plan, settings = elastic.planner.at_ratio(1.0), SamplingConfig(max_new_tokens=20)
    first, second, third, never_started = (engine.stream("x" * 200, plan, settings) for _ in range(4))
    assert next(first).ahead == next(second).ahead == 0
    assert [next(third).ahead for _ in range(3)] == [1, 1, 1]
    assert next(engine.stream("x" * 20, plan, settings)).ahead == 2  # nobody overtakes, however small
    first.close()  # type: ignore[attr-defined]
    never_started.close()  # type: ignore[attr-defined]
    assert [step.count for step in third][-1] == 20 and list(second)
    assert [step.ahead for step in engine.stream("x" * 200, plan, settings)] == [0] * 21


def test_a_full_line_says_so_and_one_who_waits_can_leave(
    elastic: ElasticModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_ACTIVE", 1), ("_WAITING", 2), ("_PATIENCE", 0.0)):
        monkeypatch.setattr(generate, name, value)
    engine, cancel = Engine(elastic), threading.Event()
    plan = elastic.planner.at_ratio(0.7)
    running, waiting = engine.stream(PROMPT, plan), engine.stream(PROMPT, plan)
    leaving = engine.stream(PROMPT, plan, cancel=cancel)
    assert [next(step).ahead for step in (running, leaving, waiting)] == [0, 1, 2]
    with pytest.raises(GenerationError, match="2 are waiting already; try again"):
        next(engine.stream(PROMPT, plan))
    cancel.set()
    assert [step.finish for step in leaving] == ["stopped"]
    assert next(waiting).ahead == 1
    list(running)
    assert next(waiting).ahead == 0


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("length", [1, 16, 75])
def test_greedy_equals_generate(family: str, length: int) -> None:
    elastic = tiny_elastic(family)
    elastic.model.generation_config.eos_token_id = None  # run on, so that there is much to compare
    engine = Engine(elastic)
    engine.ends = frozenset()
    prompt = (PROMPT * 3)[:length]
    inputs = elastic.tokenizer(prompt, return_tensors="pt")
    for ratio in (1.0, 0.6):
        plan = elastic.set_size(ratio)
        whole = elastic.model.generate(**inputs, do_sample=False, max_new_tokens=24)[0, inputs.input_ids.shape[1] :]
        elastic.set_size(1.0)
        steps = list(engine.stream(prompt, plan, SamplingConfig(max_new_tokens=24)))
        assert _text(steps) == elastic.tokenizer.decode(whole, skip_special_tokens=True)
        assert (steps[-1].count, steps[-1].finish) == (24, "length")


@pytest.mark.parametrize("penalty", [1.3, 5.0])
def test_repetition_penalty_as_transformers(engine: Engine, penalty: float) -> None:
    elastic = engine.elastic
    engine.ends = frozenset()
    inputs = elastic.tokenizer(PROMPT, return_tensors="pt")
    plans = [elastic.planner.at_ratio(ratio) for ratio in (0.4, 1.0, 0.7)]
    sampling = SamplingConfig(max_new_tokens=24, repetition_penalty=penalty)
    ids: list[list[int]] = [[], [], []]
    for step in engine.compare(PROMPT, plans, sampling):
        for i, token in step.items():
            ids[i] += [token.id] if token.id is not None else []
    for plan, written in zip(plans, ids, strict=True):
        with elastic.on_this_thread(plan):
            options = {"do_sample": False, "max_new_tokens": 24, "eos_token_id": None, "pad_token_id": 0}
            whole = elastic.model.generate(**inputs, repetition_penalty=penalty, **options)
            plain = elastic.model.generate(**inputs, **options)
        start = inputs.input_ids.shape[1]
        assert written == whole[0, start:].tolist() != plain[0, start:].tolist()


def test_drawn_tokens_are_penalized_each_by_its_own_text() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    texts = [[1, 2, 2, 3], [7], list(range(50))]
    sampling = SamplingConfig(temperature=0.7, repetition_penalty=1.6)
    processor = RepetitionPenaltyLogitsProcessor(1.6)
    penalized = torch.cat(
        [processor(torch.tensor([text]), row[None]) for text, row in zip(texts, logits, strict=True)]  # type: ignore[arg-type]
    )

    def seeded() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    before = logits.clone()
    for _ in range(20):
        chosen = choose_tokens(logits, sampling, seeded(), texts)
        assert chosen == choose_tokens(penalized, replace(sampling, repetition_penalty=1.0), seeded(), texts)
    assert torch.equal(logits, before)


def test_interleaved_streams_equal_streams_alone(engine: Engine) -> None:
    plans = [engine.elastic.planner.at_ratio(r) for r in (1.0, 0.7, 0.4)]
    settings = SamplingConfig(temperature=0.8, seed=3, max_new_tokens=20)
    alone = [_text(engine.stream(PROMPT, plan, settings)) for plan in plans]
    together = ["", "", ""]
    for steps in itertools.zip_longest(*(engine.stream(PROMPT, plan, settings) for plan in plans)):
        together = [text + (step.text if step else "") for text, step in zip(together, steps, strict=True)]
    assert together == alone
    assert len(set(alone)) == 3


def test_streams_on_threads_equal_streams_alone(engine: Engine) -> None:
    plans = [engine.elastic.planner.at_ratio(r) for r in (1.0, 0.8, 0.6, 0.4)]
    alone = [_text(engine.stream(PROMPT, plan, SamplingConfig(max_new_tokens=16))) for plan in plans]
    results = [""] * len(plans)

    def run(index: int) -> None:
        results[index] = _text(engine.stream(PROMPT, plans[index], SamplingConfig(max_new_tokens=16)))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(plans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == alone


def test_cancel_stops_within_one_token(engine: Engine) -> None:
    cancel = threading.Event()
    counts = []
    for step in engine.stream(PROMPT, engine.elastic.planner.at_ratio(1.0), cancel=cancel):
        counts.append(step.count)
        if step.count == 3:
            cancel.set()
    assert max(counts) == 3
    assert step.finish == "stopped"


@pytest.mark.usefixtures("small_slices")
def test_cancelled_while_reading_the_prompt(engine: Engine) -> None:
    cancel = threading.Event()
    steps = engine.stream("word " * 20, engine.elastic.planner.at_ratio(1.0), cancel=cancel)
    assert next(steps).prompt_read == 16
    cancel.set()
    rest = list(steps)
    assert [step.finish for step in rest] == ["stopped"] and rest[0].count == 0


def test_same_seed_same_text(engine: Engine) -> None:
    plan = engine.elastic.planner.at_ratio(0.7)

    def text(seed: int, **settings) -> str:
        return _text(
            engine.stream(PROMPT, plan, SamplingConfig(temperature=1.0, seed=seed, max_new_tokens=12, **settings))
        )

    assert text(1) == text(1) != text(2)
    greedy = _text(engine.stream(PROMPT, plan, SamplingConfig(max_new_tokens=12)))
    assert text(1, top_p=1e-9) == greedy  # only the likeliest token is left
    cold = _text(engine.stream(PROMPT, plan, SamplingConfig(temperature=1e-30, max_new_tokens=12)))
    assert cold == greedy


@pytest.mark.parametrize("top_p", [1e-9, 0.7, 1.0])
@pytest.mark.parametrize("alike", [True, False])
def test_tokens_are_drawn_as_often_as_they_are_likely(top_p: float, alike: bool) -> None:
    logits = torch.zeros(1, 300) if alike else 3 * torch.randn(1, 300, generator=torch.Generator().manual_seed(0))
    probabilities, order = logits[0].div(0.8).softmax(-1).sort(descending=True, stable=True)
    kept = probabilities.cumsum(0) - probabilities < top_p - 1e-6
    kept[0] = True
    expected = torch.zeros(300).index_put((order,), probabilities * kept / probabilities[kept].sum())
    settings, draw = SamplingConfig(temperature=0.8, top_p=top_p), torch.Generator().manual_seed(1)
    drawn = [choose_tokens(logits, settings, [draw], [[]])[0] for _ in range(2000)]
    if alike:  # which of them are left is open, not how many
        assert 0.95 * int(kept.sum()) <= len(set(drawn)) <= int(kept.sum())
    else:
        found = torch.bincount(torch.tensor(drawn), minlength=300) / 2000
        assert (found - expected).abs().max() < 0.03
        assert set(drawn) <= set(order[kept].tolist())


def test_runs_to_the_end_of_the_context(engine: Engine) -> None:
    engine.ends = frozenset()
    steps = list(engine.stream("x" * 236, engine.elastic.planner.at_ratio(1.0), SamplingConfig(max_new_tokens=20)))
    assert steps[-1].prompt_tokens + steps[-1].count == engine.context == 256


@pytest.mark.real
@pytest.mark.parametrize(
    "text",
    [
        "plain words, and   spaces\n\nand lines",
        "emoji 👩‍👩‍👧‍👦 🇩🇪 🦜 done",
        "עברית ואז العربية",
        "漢字かな交じり文 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
        "control \x00\x07\x1b[31m \u202e done",
    ],
)
def test_increments_never_split_a_character(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    words = Detokenizer(tokenizer, tokenizer("before").input_ids)
    increments = [words.push(token) for token in tokenizer(text).input_ids]
    increments.append(words.flush())
    assert not any("\ufffd" in part for part in increments)
    assert "".join(increments) == text


@pytest.mark.real
def test_broken_bytes_are_shown_in_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    half = tokenizer("🦜").input_ids[:1]
    words = Detokenizer(tokenizer, [])
    assert words.push(half[0]) == ""
    assert words.flush() == "\ufffd"
    assert "".join(words.push(half[0]) for _ in range(20)).startswith("\ufffd")


@pytest.mark.usefixtures("small_slices")
def test_measuring_in_turns_equals_measuring_at_once(family: str) -> None:
    elastic = tiny_elastic(family)
    windows = torch.randint(3, 128, (3, 60), generator=torch.Generator().manual_seed(0))
    plan = elastic.planner.at_ratio(0.6)
    engine = Engine(elastic)
    stream = engine.stream(PROMPT, elastic.planner.at_ratio(1.0))
    measured = []
    for value in engine.measure(windows, plan):
        measured.append(value)
        next(stream)  # somebody else, at another size
    elastic.apply(plan)
    expected = list(measure_perplexity(elastic.model, windows))
    assert [m.value for m in measured] == pytest.approx([e.value for e in expected], rel=1e-4)
    assert measured[-1].tokens == expected[-1].tokens


def test_measuring_is_cancelled_between_slices(engine: Engine) -> None:
    cancel = threading.Event()
    windows = torch.randint(3, 128, (3, 60))
    values = engine.measure(windows, engine.elastic.planner.at_ratio(1.0), cancel)
    assert next(values).done == 1
    cancel.set()
    assert list(values) == []
