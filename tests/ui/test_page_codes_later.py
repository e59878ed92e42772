"""Codes that are made while the page is open, in a real browser: what waits for them, and what then comes by itself."""

from __future__ import annotations

import threading

import pytest
from playwright.sync_api import expect

from acip_core.artifacts.loading import Loaded, install_coding
from acip_core.progress import Progress, Steps
from acip_core.ui import modes as modes_module
from acip_core.ui.preparation import Preparation
from tests.support.browser import Newcomer
from tests.support.coded import with_coding
from tests.support.looks import seen_in_all_looks
from tests.support.visitor import (
    SLIDER,
    opened,
    served,
    tiny_loaded,
    wait_state,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]
SIZE, DIRECTIONS = "#readouts [data-figure=size] dd", "#spend input[value=directions]"


def test_modes_can_be_chosen_as_soon_as_the_codes_are_made(newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def install(loaded: Loaded) -> Steps[bool]:
        for done in range(1, 5):
            yield Progress("making codes", done, 8)
        gate.wait(600)  # a test that fails before lets it go on
        return (yield from install_coding(loaded))

    monkeypatch.setattr(modes_module, "Preparation", lambda loaded: Preparation(loaded, install))
    wrong: list[str] = []
    with served(with_coding(tiny_loaded())) as (address, _):
        page = opened(newcomer(), address, wrong)
        wait_state(page, "done", 100)
        expect(page.locator("#spend .told")).to_contain_text("Bits can be spent")
        both = page.locator("#spend input[value=both]")
        expect(both).to_be_disabled()
        expect(page.locator(DIRECTIONS)).to_be_checked()
        linked = opened(page.context, address, wrong, link="size=24&mode=bits&compare=100,30&prompt=Hello")
        expect(linked.locator("#header .note")).to_contain_text("as soon as they can be spent")
        seen_in_all_looks(linked, "#header .note", in_view=True)
        expect(linked.locator(DIRECTIONS)).to_be_checked()
        gate.set()
        wait_state(linked, "done", 24)  # what the link has was asked for
        expect(linked.locator("#spend input[value=bits]")).to_be_checked()
        expect(linked.locator("#header .note")).to_have_count(0)
        expect(linked.locator("#compare-sizes .token")).to_have_count(2)
        assert "size=24&" in linked.url and "mode=bits" in linked.url and "prompt=Hello" in linked.url
        linked.focus(SLIDER)
        linked.keyboard.press("End")
        wait_state(linked, "done", 100)
        chips = linked.locator("#visits .chips button")
        visited = chips.all_text_contents()
        made = {"state": "running", "told": "Bits can be spent soon.", "modes": {}}
        linked.route("**/acip/modes", lambda route: route.fulfill(json=made), times=1)
        linked.reload()  # as after a restart of the server, which makes its codes anew
        expect(chips).to_have_count(len(visited))
        assert sorted(chips.all_text_contents()) == sorted(visited) and len(visited) == 3
        linked.close()
        expect(both).to_be_enabled()
        expect(page.locator(DIRECTIONS)).to_be_checked()  # nothing moves under the visitor
        both.check()
        expect(page.locator(SIZE)).not_to_contain_text("of the layers")
        wait_state(page, "done", 100)
        page.close()
    assert wrong == []
