"""The page in a real browser: opening it, dragging the slider, texts that come, are stopped and replaced."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from acip_core.artifacts.completions import NEW_TOKENS
from acip_core.generation.engine import Engine
from acip_core.ui.handlers import Handlers
from tests.support.visitor import (
    SLIDER,
    SLOW,
    VERY_SLOW,
    Slowness,
    Visit,
    drag,
    expected,
    original,
    readout,
    requests_of,
    text,
    wait_state,
    wait_until,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]


def test_opens_with_a_completion_and_all_figures(visit: Visit, engine: Engine) -> None:
    page = visit()
    wait_state(page, "done", 100)
    assert text(page) == expected(engine, 100)
    assert readout(page, "ratio") == "1.000" and readout(page, "saved") == "0.0 %"
    assert readout(page, "ppl-c4") == "30.0" and readout(page, "ppl-wikipedia") == "20.0"
    expect(page.locator("#header .note")).to_have_text("A note for <b>people</b>.")
    assert page.evaluate("Object.keys(window).filter((name) => /acip/i.test(name))") == []


def test_dragging_shows_the_texts_of_other_sizes(page: Page, engine: Engine) -> None:
    page.wait_for_function("() => document.querySelectorAll('#readouts .ready i').length >= 14")
    asked = requests_of(page)
    drag(page, 60)
    at = page.locator("#completion [data-state=ready]")
    near = int(at.get_attribute("data-percent") or 0)
    assert abs(near - int(float(page.locator(SLIDER).input_value()))) <= 3 and near % 5 == 0
    assert text(page) == expected(engine, near) and asked == []
    page.mouse.up()
    wait_state(page, "done")
    page.fill("#prompt textarea", "Another prompt")
    expect(page.locator("#readouts .ready i")).to_have_count(0)


def test_mouse_drag_updates_without_asking_and_restarts_on_release(page: Page, engine: Engine) -> None:
    asked = requests_of(page)
    seen = drag(page, 60)
    assert len(set(seen)) > 8
    assert asked == []
    page.mouse.up()
    wait_state(page, "done")
    percent = round(float(page.locator(SLIDER).input_value()))
    assert abs(percent - 60) <= 1
    wait_state(page, "done", percent)
    assert text(page) == expected(engine, percent)
    assert asked != []


def test_rapid_dragging_shows_only_the_newest_size(page: Page, server: tuple[str, Handlers], slow: Slowness) -> None:
    slow.seconds = VERY_SLOW
    for percent in (90, 40, 70, 35, 60):
        drag(page, percent, steps=3)
        with page.expect_request("**/queue/join*"):
            page.mouse.up()
    newest = round(float(page.locator(SLIDER).input_value()))
    wait_state(page, "running", newest)
    page.wait_for_function("document.querySelector('#completion .text').textContent.length > 3")
    assert server[1].visitors.count == 1  # nothing piled up
    whole = expected(server[1].model.engine, newest)
    assert whole.startswith(text(page))
    slow.seconds = SLOW
    wait_state(page, "done", newest)
    assert text(page) == whole


def test_on_a_slow_network_the_newest_size_wins(page: Page, engine: Engine) -> None:
    slow = {"offline": False, "latency": 600, "downloadThroughput": 30_000, "uploadThroughput": 30_000}
    network = page.context.new_cdp_session(page)
    network.send("Network.emulateNetworkConditions", slow)
    for percent in (90, 40, 75):
        assert len(set(drag(page, percent, steps=6))) > 3
        with page.expect_request("**/queue/join*"):
            page.mouse.up()
    newest = round(float(page.locator(SLIDER).input_value()))
    wait_state(page, "done", newest)
    assert text(page) == expected(engine, newest)
    network.detach()  # the tab is as fast as before


def test_stop(visit: Visit, engine: Engine, slow: Slowness) -> None:
    slow.seconds = VERY_SLOW
    prompt = "To be stopped"
    page = visit(link=f"size=60&prompt={prompt}")
    page.wait_for_function("document.querySelector('#completion .text').textContent.length > 3")
    page.click("#stop")
    wait_state(page, "stopped")
    shown = text(page)
    assert 0 < len(shown) < NEW_TOKENS and expected(engine, 60, prompt).startswith(shown)
    assert expected(engine, 100, prompt).startswith(original(page))
    page.click("#run")
    wait_state(page, "running", 60)


def test_measuring_can_be_stopped(
    visit: Visit, server: tuple[str, Handlers], slow: Slowness, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow.seconds = VERY_SLOW  # or the page would draw all the time
    endless = torch.randint(3, 128, (20_000, 24), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(server[1].model, "windows", lambda corpus: endless)
    page = visit()
    page.click("#measure")
    page.wait_for_selector('#chart .plot[data-measured="2"]')
    page.click("#stop-measuring")
    page.wait_for_selector('#chart [data-state="stopped"]')


def test_another_setting_or_prompt_starts_over_and_nonsense_is_refused_by_name(visit: Visit, engine: Engine) -> None:
    page = visit()
    wait_state(page, "done", 100)
    page.fill("#prompt textarea", "Another prompt")
    page.locator("#prompt textarea").blur()
    page.wait_for_function("document.querySelector('#completion .prompt').textContent === 'Another prompt'")
    wait_state(page, "done", 100)
    assert text(page) == expected(engine, 100, "Another prompt")
    page.click("#advanced button")
    length = page.get_by_label("number input for Length")
    length.click()
    length.fill("16")
    length.press("Tab")
    expect(page.locator("#completion .status")).to_contain_text("16 tokens")
    assert expected(engine, 100, "Another prompt").startswith(text(page))
    page.fill("#seed input", "-5")
    page.click("#run")
    wait_state(page, "error")
    expect(page.locator("#completion .status")).to_contain_text("seed")


def test_one_click_is_one_run(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: "queue/join" in request.url and asked.append(request.url))
    page.fill("#prompt textarea", "Another prompt")
    page.click("#run", delay=150)  # longer than the slider's rest
    page.wait_for_function("document.querySelector('#completion .prompt').textContent === 'Another prompt'")
    wait_state(page, "done", 100)
    page.fill("#prompt textarea", "A third one")
    page.press("#prompt textarea", "Enter")
    page.wait_for_function("document.querySelector('#completion .prompt').textContent === 'A third one'")
    page.locator("#prompt textarea").blur()
    wait_state(page, "done", 100)
    page.fill("#prompt textarea", "A fourth one")
    page.press("#prompt textarea", "Tab")
    page.wait_for_function("document.querySelector('#completion .prompt').textContent === 'A fourth one'")
    assert len(asked) == 3


@pytest.mark.parametrize("tabs", [False, True], ids=["another visitor", "another tab"])
def test_others_are_answered_while_one_generates(
    page: Page, browser: Browser, visit: Visit, engine: Engine, slow: Slowness, tabs: bool
) -> None:
    with nullcontext(page.context) if tabs else browser.new_context() as context:
        first, second = page, visit(context)
        slow.seconds = VERY_SLOW
        first.click("#run")
        wait_state(first, "running", 100)
        assert len(set(drag(second, 50))) > 8
        second.mouse.up()
        percent = round(float(second.locator(SLIDER).input_value()))
        wait_state(second, "running", percent)
        slow.seconds = SLOW
        wait_state(second, "done", percent)
        wait_state(first, "done", 100)
        assert (text(first), text(second)) == (expected(engine, 100), expected(engine, percent))


def test_closing_the_tab_stops_its_run(visit: Visit, server: tuple[str, Handlers], slow: Slowness) -> None:
    slow.seconds = VERY_SLOW
    page = visit()
    page.click("#run")
    expect(page.locator("#completion .status")).to_contain_text("so far")
    assert server[1].visitors.count == 1
    page.close()
    wait_until(lambda: server[1].visitors.count == 0)
