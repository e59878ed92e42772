"""What the engine is asked for that it cannot do: odd prompts, settings out of range, templates that fail."""

from __future__ import annotations

import math

import pytest
from tokenizers import normalizers, processors

from acip_core.errors import GenerationError
from acip_core.generation.engine import Engine, SamplingConfig
from tests.support.tiny import tiny_elastic

PROMPT = "The capital of Germany is called"


@pytest.mark.parametrize(
    "prompt", ["\x00\x01\x02", "👍🏽 🇩🇪", "مرحبا بالعالم", "\ud83d broken", "a\u202eb", "<|im_end|>"]
)
def test_odd_prompts_run(engine: Engine, prompt: str) -> None:
    steps = list(engine.stream(prompt, engine.elastic.planner.at_ratio(0.5), SamplingConfig(max_new_tokens=3)))
    assert steps[-1].finish in ("length", "end")


@pytest.mark.parametrize("prompt", ["", "   \n\t "])
def test_empty_prompt(engine: Engine, prompt: str) -> None:
    with pytest.raises(GenerationError, match="empty"):
        engine.stream(prompt, engine.elastic.planner.at_ratio(1.0))


def test_prompt_of_100_000_characters_names_tokens_and_limit(engine: Engine) -> None:
    with pytest.raises(GenerationError, match=r"has [\d,]+ tokens, but at most 128 fit beside 128 new ones"):
        engine.stream("many words " * 9_100, engine.elastic.planner.at_ratio(1.0))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0.0}, "Top-p"),
        ({"top_p": 1.5}, "Top-p"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"max_new_tokens": 0}, "length"),
        ({"max_new_tokens": 256}, "length"),
        ({"max_new_tokens": 1.5}, "length"),
        ({"repetition_penalty": 0.0}, "repetition penalty"),
        ({"repetition_penalty": -1.2}, "repetition penalty"),
        ({"repetition_penalty": 1e30}, "repetition penalty"),
    ],
)
def test_bad_sampling(engine: Engine, settings: dict, named: str) -> None:
    with pytest.raises(GenerationError, match=named) as caught:
        engine.stream(PROMPT, engine.elastic.planner.at_ratio(1.0), SamplingConfig(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("named", ["temperature", "top_p", "seed", "max_new_tokens", "repetition_penalty"])
@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        1e400,
        10**400,
        -(10**400),
        10**5000,
        True,
        False,
        None,
        "1",
        "",
        [1],
        {},
        1j,
        b"1",
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number_in_range_is_refused_by_name(engine: Engine, named: str, value: object) -> None:
    words = {"top_p": "top-p", "max_new_tokens": "length", "repetition_penalty": "repetition penalty"}
    with pytest.raises(GenerationError) as caught:
        engine.stream(PROMPT, engine.elastic.planner.at_ratio(1.0), SamplingConfig(**{named: value}))  # type: ignore[arg-type]
    assert words.get(named, named) in str(caught.value).lower() and len(str(caught.value)) < 160


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 5e-324, "top_p": 5e-324},
        {"temperature": 1e308},
        {"temperature": 1, "seed": 7.0, "max_new_tokens": 3.0},
        {"seed": 2**63 - 1, "temperature": 1.0},
        {"repetition_penalty": 0.1, "temperature": 5e-324},
        {"repetition_penalty": 10, "temperature": 1.0},
    ],
)
def test_the_ends_of_the_ranges_run(engine: Engine, settings: dict) -> None:
    steps = list(
        engine.stream(PROMPT, engine.elastic.planner.at_ratio(0.6), SamplingConfig(**{"max_new_tokens": 3, **settings}))
    )
    assert steps[-1].finish in ("length", "end")


@pytest.mark.parametrize("prompt", [None, 3, b"text", ["text"], True])
def test_a_prompt_is_a_text(engine: Engine, prompt: object) -> None:
    with pytest.raises(GenerationError, match="must be a text"):
        engine.stream(prompt, engine.elastic.planner.at_ratio(1.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("starts", [False, True], ids=["plain", "with a start token"])
@pytest.mark.parametrize("prompt", ["\u0001", "\u200b\u200b", "\ufeff"])
def test_a_prompt_without_tokens_is_refused(prompt: str, starts: bool) -> None:
    elastic = tiny_elastic()
    backend = elastic.tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    backend.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.Strip()])
    if starts:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    engine, plan = Engine(elastic), elastic.planner.at_ratio(1.0)
    with pytest.raises(GenerationError, match="makes no tokens of the prompt"):
        engine.stream(prompt, plan)
    first = next(engine.stream("ab", plan))
    assert first.prompt_tokens == 2 + starts


@pytest.mark.parametrize(
    ("template", "named"),
    [
        (
            "{{ raise_exception('Roles must alternate.\nSee the card.') }}",
            r"cannot be applied .*\(Roles must alternate\.\)",
        ),
        ("{% for message in messages %}", "cannot be applied"),
        ("{{ messages[0].content.nothing.at.all }}", "cannot be applied"),
        ({"tool_use": "x", "rag": "y"}, "cannot be applied"),
        ("{% if false %}x{% endif %}", "makes nothing of the prompt"),
        ("", "no chat template"),
    ],
)
def test_chat_templates_that_fail(template: object, named: str) -> None:
    elastic = tiny_elastic()
    elastic.tokenizer.chat_template = template
    with pytest.raises(GenerationError, match=named) as caught:
        Engine(elastic).stream(PROMPT, elastic.planner.at_ratio(1.0), chat=True)
    assert "\n" not in str(caught.value) and "switch the chat template off" in str(caught.value)


def test_no_chat_template(engine: Engine) -> None:
    with pytest.raises(GenerationError, match="no chat template"):
        engine.stream(PROMPT, engine.elastic.planner.at_ratio(1.0), chat=True)
