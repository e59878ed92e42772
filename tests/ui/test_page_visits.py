"""The page in a real browser: what was seen before, by chips, the flip and the browser's own Back and Forward."""

from __future__ import annotations

import threading

import pytest
from playwright.sync_api import Page, expect

from acip_core.generation.engine import Engine
from acip_core.model.tracks import Track
from acip_core.ui import completion_jobs, sweep
from tests.support.browser import Newcomer
from tests.support.visitor import (
    HELD,
    SLIDER,
    SLOW,
    Slowness,
    Visit,
    drag,
    forget_visits,
    opened,
    original,
    served,
    text,
    tiny_loaded,
    wait_state,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]

CHIPS, CURRENT = "#visits .chips button", "#visits [aria-current]"


def test_visited_sizes_stay(page: Page) -> None:
    forget_visits(page)
    texts = {100: text(page)}
    for percent in (70, 40):
        drag(page, percent)
        page.mouse.up()
        wait_state(page, "done", percent)
        texts[percent] = text(page)
    chips = page.locator("#visits .chips button")
    expect(chips).to_have_count(3)

    def shown(percent: int) -> None:
        expect(page.locator("#completion [data-percent]")).to_have_attribute("data-percent", str(percent))
        assert page.locator(SLIDER).input_value() == str(percent)
        assert text(page) == texts[percent]
        expect(page.locator("#visits [aria-current]")).to_contain_text(f"{percent} %")
        assert f"size={percent}&" in page.url

    page.focus(SLIDER)
    for percent in (70, 40, 70):
        page.keyboard.press("t")
        shown(percent)
    page.keyboard.press("Control+z")  # a flip is a step, too
    shown(40)
    page.keyboard.press("Control+z")
    shown(70)
    page.keyboard.press("Control+Shift+z")
    shown(40)
    chips.first.click()
    shown(100)
    page.locator("#prompt textarea").press_sequentially("t")  # is a letter there
    assert page.locator("#prompt textarea").input_value().endswith("t")
    page.click("#visits [data-do=clear]")
    expect(chips).to_have_count(1)


def test_a_chip_stays_the_current_one_while_more_texts_come_and_runs_end(
    visit: Visit, slow: Slowness, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = threading.Event()

    def next_sizes(prompt: str, known: dict[float, str], percent: float, track: Track) -> list[float]:
        """Those of the run at 80 %, once they may come."""
        return sweep.next_sizes(prompt, known, percent, track) if percent == 80 and more.wait(60) else []

    monkeypatch.setattr(completion_jobs, "next_sizes", next_sizes)
    page = visit(link="size=70&mode=directions&length=8&prompt=A text of my own")
    wait_state(page, "done", 70)
    page.focus(SLIDER)
    page.keyboard.press("PageUp")
    wait_state(page, "done", 80)
    known = page.locator("#readouts .ready i").count()
    page.locator(CHIPS, has_text="70 %").click()
    more.set()
    page.wait_for_function(f"document.querySelectorAll('#readouts .ready i').length > {known}")
    expect(page.locator(CURRENT)).to_contain_text("70 %")
    for percent in (80, 70):
        page.locator("#visits [data-do=toggle]").click()
        expect(page.locator(SLIDER)).to_have_value(str(percent))
    slow.seconds = HELD
    page.fill("#prompt textarea", "One that ends later")
    page.click("#run")
    page.wait_for_function("document.querySelector('#completion .text').textContent.length < 3")
    page.locator(CHIPS, has_text="80 %").click()
    slow.seconds = SLOW
    expect(page.locator(CHIPS, has_text="One that ends later")).to_be_visible()
    expect(page.locator(CURRENT)).to_contain_text("80 %")
    expect(page.locator(SLIDER)).to_have_value("80")


def test_a_chip_keeps_the_original_beside_it_over_a_reload(visit: Visit) -> None:
    page = visit(link="size=60&mode=directions&length=8&prompt=Mine")
    wait_state(page, "done", 60)
    beside = original(page)
    assert len(beside) > 3
    page.focus(SLIDER)
    page.keyboard.press("PageDown")
    wait_state(page, "done", 50)
    page.reload()
    page.locator(CHIPS, has_text="60 %").click()
    expect(page.locator("#completion .said")).to_have_text(beside)
    expect(page.locator("#completion .original .note")).to_have_text("")


def test_a_prompt_that_is_too_long_for_a_link_is_a_step_all_the_same(
    visit: Visit, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "context", 8192)
    page = visit(link="size=70&mode=directions&length=8&prompt=Short")
    wait_state(page, "done", 70)
    field, longest = page.locator("#prompt textarea"), "word " * 900
    _ask(page, longest)
    assert "prompt=" not in page.url
    _ask(page, "Other")
    page.go_back()
    expect(field).to_have_value(longest)
    page.go_back()
    expect(field).to_have_value("Short")
    page.go_forward()
    expect(field).to_have_value(longest)
    page.locator(CHIPS, has_text="Other").click()
    assert "prompt=Other" in page.url
    page.locator(CHIPS, has_text="word").click()
    assert "prompt=" not in page.url and "size=70" in page.url
    page.evaluate("() => { navigator.clipboard.writeText = async () => {}; }")
    page.click("[data-share]")
    expect(page.locator("[data-share]")).to_contain_text("too long for a link")
    page.reload()
    wait_state(page, "done", 70)
    expect(field).to_have_value(longest)


def _ask(page: Page, prompt: str) -> None:
    """Another prompt at the slider's size, up to its text."""
    chips = page.locator(CHIPS).count()
    page.fill("#prompt textarea", prompt)
    page.click("#run")
    expect(page.locator(CHIPS)).to_have_count(chips + 1)


def test_every_question_to_a_chat_model_is_a_visit_of_its_own(newcomer: Newcomer) -> None:
    loaded = tiny_loaded()
    loaded.elastic.tokenizer.chat_template = "{{ 'User: ' + messages[0].content + ' Bot:' }}"
    wrong: list[str] = []
    with served(loaded) as (address, handlers):
        handlers.model.engine.ends = frozenset()
        link = "chat=1&prompt=The first question&size=70&mode=directions&length=16"
        page = opened(newcomer(), address, wrong, link)
        wait_state(page, "done", 70)
        first, beside = text(page), original(page)
        _ask(page, "Second, another question")
        assert first and text(page) != first and page.locator("#completion .prompt").text_content() == ""
        page.locator(CHIPS, has_text="70 % The first question").click()
        assert text(page) == first and "prompt=The+first+question&" in page.url and "chat=1" in page.url
        assert page.input_value("#prompt textarea") == "The first question"
        page.click("#run")  # from here on the texts of this question come
        page.wait_for_function("document.querySelectorAll('#readouts .ready i').length > 7")
        page.route("**/queue/join*", lambda route: None)
        page.focus(SLIDER)
        with page.expect_request("**/queue/join*"):
            page.keyboard.press("PageDown")
        assert page.locator("#readouts .ready i").count() > 7  # and stay where another size is asked for
        assert beside and original(page) == beside
        page.close()
    assert wrong == []
