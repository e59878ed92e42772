"""The first screen on a phone: what stays in sight, and what a drag moves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.support.visitor import DESKTOP, SLIDER

pytestmark = [pytest.mark.browser, pytest.mark.long]


@pytest.fixture
def page(page: Page) -> Iterator[Page]:
    """The one tab, of a phone's size."""
    page.set_viewport_size({"width": 390, "height": 844})
    yield page
    page.set_viewport_size(DESKTOP)


def test_on_a_phone_the_slider_stays_at_the_bottom(page: Page) -> None:
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    box = page.locator("#size-group").first.bounding_box()
    assert box is not None and abs(box["y"] + box["height"] - 844) <= 1
    expect(page.locator("#spend")).to_be_hidden()
    page.click("#readouts summary")
    expect(page.locator("#spend")).to_be_visible()
    examples = page.locator("#examples > .gallery")  # a row that goes on fades out, and its end can be read
    assert "gradient" in examples.evaluate("row => getComputedStyle(row).maskImage")
    examples.evaluate("row => { row.scrollLeft = 1e6; }")
    ends = "row => [row, row.lastElementChild].map((each) => each.getBoundingClientRect().right)"
    row, last = examples.evaluate(ends)
    assert last <= row - 40


def test_on_a_phone_the_texts_stay_in_sight_beside_details(page: Page) -> None:
    panel = page.locator(".column > #size-group")
    page.click("#readouts summary")
    box, texts = panel.bounding_box(), page.locator("#completion pre").first.bounding_box()
    assert box is not None and texts is not None and box["height"] + texts["height"] < 844 * 0.7
    page.evaluate("scrollTo(0, document.querySelector('#completion').offsetTop)")
    for pane in page.locator("#completion pre").all():
        place = pane.bounding_box()
        assert place is not None and place["y"] >= 0 and place["y"] + place["height"] <= box["y"]
    panel.evaluate("panel => { panel.scrollTop = 1e6; }")
    slider = page.locator(SLIDER).bounding_box()
    assert slider is not None and box["y"] <= slider["y"] and slider["y"] + slider["height"] <= box["y"] + 60


def test_on_a_phone_a_drag_moves_the_thumb_alone(page: Page) -> None:
    heights = """() => {
      const slider = document.querySelector("#size input[type=range]"), seen = new Set();
      for (let at = Number(slider.min); at <= Number(slider.max); at++) {
        slider.value = at;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        seen.add(slider.getBoundingClientRect().y);
      }
      return seen.size;
    }"""
    assert page.evaluate(heights) == 1
    page.click("[data-method]")  # which leaves the slider at hand
    expect(page.locator("#how")).to_be_visible()
    box = page.locator(SLIDER).bounding_box()
    assert box is not None
    on_top = "([x, y]) => document.elementFromPoint(x, y).matches('#size input[type=range]')"
    assert page.evaluate(on_top, [box["x"] + 50, box["y"] + 10])
