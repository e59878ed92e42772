"""Completions with the texts of other sizes beside them, without a browser."""

from __future__ import annotations

from typing import Any

import pytest

from acip_core.ui.handlers import Handlers
from tests.support.visitor import REQUEST, SETTINGS, tiny_loaded


@pytest.fixture
def handlers() -> Handlers:
    return Handlers(tiny_loaded())


def test_a_sweep_writes_every_size_as_it_is_alone(handlers: Handlers) -> None:
    found: dict[int, str] = {}
    messages = list(handlers.sweep(REQUEST, "prompt", 62, *SETTINGS))
    for message in messages:
        told = {percent: text for percent, text, finished in message["ready"] if finished}
        assert found.items() <= told.items(), "a page that sees only the last of several misses nothing"
        found = told
    assert messages[-1]["state"] == "done" and 62 in found and set(range(35, 101, 5)) <= set(found)
    for percent, text in found.items():
        assert list(handlers.complete("prompt", percent, *SETTINGS, REQUEST))[-1]["text"] == text
    again = list(handlers.sweep(REQUEST, "prompt", 65, *SETTINGS))
    assert {percent: text for percent, text, _ in again[0]["ready"]} == found
    assert again[-1]["status"].endswith(" · as before")


def test_a_sweep_writes_the_original_beside_the_size_that_was_asked_for(handlers: Handlers) -> None:
    messages = list(handlers.sweep(REQUEST, "prompt", 62, *SETTINGS))
    first = next(i for i, message in enumerate(messages) if message["state"] == "done")
    assert all({percent for percent, *_ in message["ready"]} <= {62, 100} for message in messages[: first + 1])
    lengths = [[len(text) for _, text, _ in message["ready"]] for message in messages[1:first]]
    assert any(sum(both) > 0 for both in lengths) and messages[first]["read"] == 1


def test_of_a_long_prompt_the_size_asked_for_comes_before_the_original(handlers: Handlers) -> None:
    prompt = "a" * 420
    handlers.model.engine._encode = lambda *_: list(range(3, 90))  # type: ignore[method-assign]
    messages = list(handlers.sweep(REQUEST, prompt, 62, *SETTINGS))
    done = [message for message in messages if message["state"] == "done"]
    assert not any(percent == 100 for message in messages for percent, *_ in message["ready"] if message not in done)
    assert any(message["status"].startswith("the original: ") for message in done)
    assert [100, True] in [[percent, finished] for percent, _, finished in done[-2]["ready"]]
    assert not done[-1]["status"].startswith("the original") and len({message["text"] for message in done}) == 1


def test_the_repetition_penalty_comes_last_and_is_none_by_default(handlers: Handlers) -> None:
    def last(**more: Any) -> str:
        return list(handlers.complete("Hello", 60, *SETTINGS, REQUEST, **more))[-1]["text"]

    assert last() == last(mode="directions", repetition_penalty=1) != last(repetition_penalty=2.0)
    columns = list(handlers.compare("Hello", [100, 60], *SETTINGS, REQUEST, repetition_penalty=2.0))[-1]["columns"]
    assert "".join(text for text, _ in columns[1]["tokens"]) == last(repetition_penalty=2.0)
    for wrong in (0, "much", None, True):
        with pytest.warns(UserWarning, match="repetition penalty"):
            assert list(handlers.complete("Hello", 60, *SETTINGS, REQUEST, repetition_penalty=wrong))[-1]["text"] == ""  # type: ignore[arg-type]


def test_an_answer_to_a_prompt_names_the_prompt_and_shows_none_before_it(handlers: Handlers) -> None:
    handlers.model.engine.elastic.tokenizer.chat_template = "{{ messages[0].content }}:"
    for chat, shown in ((True, ""), (False, "Hello")):
        settings = (*SETTINGS[:-1], chat)
        for messages in (
            handlers.complete("Hello", 60, *settings, REQUEST),
            handlers.compare("Hello", [100, 60], *settings, REQUEST),
        ):
            last = list(messages)[-1]
            assert last["state"] == "done" and (last["prompt"], last["shown"]) == ("Hello", shown)


def test_a_newer_run_ends_a_sweep(handlers: Handlers) -> None:
    sweep = handlers.sweep(REQUEST, "prompt", 100, *SETTINGS)
    while next(sweep)["state"] != "done":
        pass
    newer = handlers.complete("prompt", 50, *SETTINGS, REQUEST)
    next(newer)
    assert list(sweep) == []
    assert list(newer)[-1]["state"] == "done" and handlers.visitors.count == 0


def test_a_sweep_of_nonsense_is_one_sentence(handlers: Handlers) -> None:
    for prompt, temperature in (("", 0.0), ("prompt", float("nan")), ("prompt", None)):
        with pytest.warns(UserWarning):
            last = list(handlers.sweep(REQUEST, prompt, 100, temperature, 1.0, 0, 16, False))[-1]
        assert last["state"] == "error" and last["status"]
    assert handlers.visitors.count == 0
