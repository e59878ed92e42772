"""The strip of facts in a real browser: modes that come later, were not asked or are not there, and low windows."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from acip_core.artifacts.loading import Loaded, install_coding
from acip_core.model.size_planner import BOTH
from acip_core.progress import Steps
from acip_core.ui import modes as modes_module
from acip_core.ui.preparation import Preparation
from tests.support.browser import Newcomer
from tests.support.coded import opened_with_codes, with_coding
from tests.support.knowledge import lit, with_knowledge
from tests.support.visitor import SLIDER, opened, served, tiny_loaded, wait_state

pytestmark = [pytest.mark.browser, pytest.mark.long]


def test_codes_that_come_later_move_nothing_and_the_next_page_opens_with_them(
    newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = with_knowledge(opened_with_codes(tiny_loaded())).knowledge
    gate = threading.Event()

    def install(loaded: Loaded) -> Steps[bool]:
        gate.wait(600)  # a test that fails before lets it go on
        return (yield from install_coding(loaded))

    monkeypatch.setattr(modes_module, "Preparation", lambda loaded: Preparation(loaded, install))
    wrong: list[str] = []
    with served(replace(with_coding(tiny_loaded()), knowledge=asked)) as (address, handlers):
        modes = handlers.model.modes
        first = opened(newcomer(), address, wrong)
        opening = modes.knowledge.opening(modes.directions)
        wait_state(first, "done", int(opening))
        before = lit(first)
        claim = "#header .claim > span[data-while] >> visible=true"
        expect(first.locator(claim)).to_have_count(1)
        told = first.locator(claim).text_content() or ""
        gate.set()
        expect(first.locator("#spend input[value=both]")).to_be_enabled()
        expect(first.locator("#spend input[value=directions]")).to_be_checked()
        expect(first.locator(SLIDER)).to_have_value(str(opening))
        assert lit(first) == before
        expect(first.locator(claim)).to_have_text(told.replace("once bits can be spent", "where bits are spent"))
        second = opened(first.context, address, wrong)
        track = modes.track(BOTH)
        place = track.percents.index(modes.knowledge.opening(track))
        wait_state(second, "done")
        expect(second.locator("#spend input[value=both]")).to_be_checked()
        expect(second.locator(SLIDER)).to_have_value(str(modes.directions.percents[0] + place))
        known = modes.knowledge.known(track)
        assert known is not None and lit(second) == known["flags"][place] and place > 0
        expect(second.locator(claim)).to_have_count(1)
        expect(second.locator(claim)).not_to_have_text(told)
        for page in (first, second):
            page.close()
    assert wrong == []


def test_a_mode_that_was_not_asked_says_so(newcomer: Newcomer) -> None:
    wrong: list[str] = []
    asked = with_knowledge(tiny_loaded()).knowledge
    with served(replace(with_coding(tiny_loaded()), knowledge=asked)) as (address, handlers):
        thread = handlers.model.modes.preparation._thread
        assert thread is not None
        thread.join()
        page = opened(newcomer(), address, wrong, "mode=both")
        expect(page.locator("#spend input[value=both]")).to_be_checked()
        expect(page.locator("#knowledge .count")).to_contain_text("(not asked)")
        expect(page.locator("#knowledge [data-copy]")).to_be_disabled()
        assert "1" not in lit(page)
        page.check("#spend input[value=directions]")
        expect(page.locator("#knowledge [data-copy]")).to_be_enabled()
        assert "1" in lit(page)
        page.close()
    assert wrong == []


def test_without_facts_there_is_no_strip(newcomer: Newcomer) -> None:
    wrong: list[str] = []
    with served(tiny_loaded()) as (address, _):
        page = opened(newcomer(), address, wrong)
        wait_state(page, "done", 100)
        expect(page.locator("#knowledge")).to_have_count(0)
        page.close()
    assert wrong == []


def test_a_card_is_whole_in_a_low_window(newcomer: Newcomer) -> None:
    wrong: list[str] = []
    with served(with_knowledge(tiny_loaded())) as (address, _):
        page = opened(newcomer(), address, wrong)
        tile, card = page.locator("#knowledge [data-fact]").last, page.locator("#knowledge .said")
        for width, height in ((640, 360), (844, 390)):  # a desktop at 200 %, a phone on its side
            page.set_viewport_size({"width": width, "height": height})
            tile.evaluate("tile => tile.blur()")
            tile.scroll_into_view_if_needed()
            tile.focus()
            expect(card).to_be_visible()
            box, at = card.bounding_box(), tile.bounding_box()
            assert box and at and box["y"] >= 0 and box["y"] + box["height"] <= height
            beside = box["x"] >= at["x"] + at["width"] or box["x"] + box["width"] <= at["x"]
            assert beside or box["y"] + box["height"] <= at["y"] or box["y"] >= at["y"] + at["height"]
        page.close()
    assert wrong == []
