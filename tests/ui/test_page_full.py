"""The page of a model with codes, facts and other methods, in a real browser: its track, its terms, two visitors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from acip_core.artifacts.loading import Loaded
from acip_core.model.size_planner import BOTH
from acip_core.ui.glossary import terms_in
from acip_core.ui.handlers import Handlers
from tests.support.browser import newcomers
from tests.support.coded import made_up_peers, opened_with_codes, with_coding
from tests.support.knowledge import with_knowledge
from tests.support.looks import looks, seen_in_all_looks
from tests.support.pictures import a_comparison
from tests.support.visitor import (
    SLIDER,
    close_details,
    drag,
    expand,
    figure,
    opened,
    original,
    served,
    text,
    tiny_loaded,
    wait_state,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]
Visit = Callable[..., Page]
_IN_VIEW = {
    "advanced": ({"token"}, "words and parts of words"),
    "layer-type": ({f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")} | {"layer"}, "look back at"),
}
# A part of the page with all that it says; what is quoted or typed are no words of the page.
_PARTS = """() => {
  const places = "#header, #completion, #knowledge, #readouts, #spend, #chart, #measure-actions, #visits, #advanced, "
    + "#compare-view, #reading, #exported, #efficiency, #layer-type, #pictures figure, #how figure, #how";
  const quoted = "pre, code, textarea, .chips, #examples, .facts, #visits .bar, .plot .hoverlayer, script, style";
  const parts = new Map();
  const walker = document.createTreeWalker(document.querySelector(".gradio-container"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const { parentElement: element, data } = walker.currentNode;
    const part = element.closest(places);
    if (!part || !data.trim() || element.closest(quoted)) continue;
    if (!(element.closest("select") ?? element).checkVisibility({ visibilityProperty: true })) continue;
    const name = (part.id || part.querySelector("h3")?.textContent);
    if (!parts.has(name)) parts.set(name, { said: [], explained: [] });
    const found = parts.get(name);
    found.said.push(data);
    const unit = element.closest(".figure, .tile, tr") ?? element.closest("[data-meaning]");
    const holder = unit?.matches("[data-meaning]") ? unit : unit?.querySelector("[data-meaning]");
    const focused = holder?.matches("a, button, [tabindex='0'], :has(input, select)");
    if (focused && holder.dataset.meaning.length > 20) found.explained.push(unit.innerText);
  }
  return [...parts];
}"""
# Where each sentence stands when its term has the focus.
_SENTENCES = """() => [...document.querySelectorAll("[data-meaning]")].map((each) => {
  if (!each.checkVisibility()) return null;
  const inner = each.querySelector("input, select") ?? each;
  if (inner.disabled) return null;
  inner.focus();
  const box = document.querySelector("#meaning"), { left, top, right, bottom } = box.getBoundingClientRect();
  const isOpen = box.matches(":popover-open") && box.textContent === each.dataset.meaning;
  const isWhole = left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight;
  return isOpen && isWhole ? null : `${each.textContent}: ${isOpen} ${[left, top, right, bottom]}`;
}).filter((wrong) => wrong !== null)"""
# Labels of the plot's x axis, from left to right.
_APART = """() => {
  const labels = [...document.querySelectorAll("#chart .xtick text")].filter((label) => label.checkVisibility());
  const boxes = labels.map((label) => label.getBoundingClientRect()).sort((a, b) => a.left - b.left);
  const isApart = ({ left, height }, i) => height < 20 && (i === 0 || left > boxes[i - 1].right);
  return boxes.length > 0 && boxes.every(isApart);
}"""


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    asked = with_knowledge(opened_with_codes(tiny_loaded()), step=10).knowledge
    return replace(with_coding(tiny_loaded()), knowledge=asked, peers=made_up_peers(), comparison=a_comparison())


@pytest.fixture(scope="module")
def server(loaded: Loaded) -> Iterator[tuple[str, Handlers]]:
    with served(loaded) as (address, handlers):
        thread = handlers.model.modes.preparation._thread
        assert thread is not None
        thread.join()
        handlers.model.engine.ends = frozenset()
        yield address, handlers


@pytest.fixture
def visit(profile: BrowserContext, server: tuple[str, Handlers]) -> Iterator[Visit]:
    """Opens the page for somebody who was never there, beside the tab of `page`."""
    wrong: list[str] = []
    with newcomers(profile) as newcomer:
        newcomer()
        yield lambda link="": opened(newcomer(), server[0], wrong, link)
    assert wrong == []


@pytest.fixture(scope="module")
def page(profile: BrowserContext, server: tuple[str, Handlers]) -> Iterator[Page]:
    """One tab for all tests of this file, whatever was done there before."""
    wrong: list[str] = []
    tab = opened(profile, server[0], wrong)
    yield tab
    tab.close()
    assert wrong == []


def test_a_mode_opens_at_its_own_size_and_then_where_it_was_left(visit: Visit, server: tuple[str, Handlers]) -> None:
    page, modes = visit(), server[1].model.modes
    openings = {mode: modes.knowledge.opening(modes.track(mode)) for mode in ("both", "bits", "directions")}
    wait_state(page, "done")

    def stands(mode: str, percent: float) -> None:
        expect(page.locator(f"#spend input[value={mode}]")).to_be_checked()
        wait_state(page, "done", percent)  # type: ignore[arg-type]
        assert f"size={percent}&" in page.url and f"mode={mode}" in page.url

    stands("both", openings["both"])
    drag(page, 40)
    page.mouse.up()
    page.wait_for_function("former => !location.hash.includes(former)", arg=f"size={openings['both']}&")
    wait_state(page, "done")
    left = float(re.findall(r"size=([\d.]+)&", page.url)[0])
    page.check("#spend input[value=directions]")
    stands("directions", openings["directions"])
    page.check("#spend input[value=bits]")
    stands("bits", openings["bits"])
    page.check("#spend input[value=both]")
    wait_state(page, "done")
    assert float(re.findall(r"size=([\d.]+)&", page.url)[0]) == left != openings["both"]
    page.click("#readouts summary")  # on a phone the choice is behind it
    seen_in_all_looks(page, "#spend label", "#spend .told")
    page.go_back()
    stands("bits", openings["bits"])


def test_ticks_are_round_sizes_at_their_own_places(page: Page, server: tuple[str, Handlers]) -> None:
    wait_state(page, "done")
    page.check("#spend input[value=both]")
    ticks = page.locator("#readouts .tick")
    labels = [float(label) for label in ticks.all_text_contents()]
    assert labels == sorted(labels) and len(labels) > 4 and labels[-1] == 0.085
    assert all(float(f"{label:.2g}") == label for label in labels)
    places = ticks.evaluate_all("all => all.map((tick) => Number(tick.style.getPropertyValue('--at')))")
    track = server[1].model.modes.track(BOTH)
    low, high = (percent / 100 * track.planner.base_bytes / 1e6 for percent in (track.percents[0], 100))
    ideal = [max(0, math.log(label / low) / math.log(high / low)) for label in labels[:-1]]
    assert places == pytest.approx([*ideal, 1], abs=0.001)
    page.mouse.move(0, 0)
    page.keyboard.press("Escape")  # what the choice means would cover some
    seen_in_all_looks(page, "#readouts .tick")
    right_of = "all => all.map((tick) => { const range = document.createRange(); range.selectNodeContents(tick);"
    for width, _ in looks(page):
        boxes = ticks.evaluate_all(
            f"{right_of} const {{ left, right }} = range.getBoundingClientRect(); return [left, right]; }})"
        )
        assert all(a[1] < b[0] for a, b in pairwise(boxes)), width
    ticks.nth(2).click()
    wait_state(page, "done")
    assert float(figure(page, "size").split()[0]) == pytest.approx(labels[2], rel=0.02)


def test_labels_of_the_plot_stand_apart_on_a_phone_at_200_percent(page: Page) -> None:
    for mode, title in (("both", "size, MB"), ("directions", "of the layers, %")):
        page.evaluate("mode => document.querySelector(`#spend input[value=${mode}]`).click()", mode)
        if mode == "directions":
            page.select_option("[data-axis]", "ratio")
        for width, _ in looks(page, zoom=2):
            expect(page.locator("#chart .xtitle")).to_contain_text(title if width == "phone" else ",")
            page.wait_for_function(_APART)
    seen_in_all_looks(page, "[data-axis]", "#chart .xtick text", "#chart .xtitle", zoom=2)
    page.select_option("[data-axis]", "bytes")


def test_what_one_visitor_does_moves_nothing_that_another_sees(page: Page, visit: Visit) -> None:
    """At a desktop in light and on a phone in dark; first one alone, then both at once."""
    first, second = page, visit(link="size=90&mode=directions&seed=3")
    second.set_viewport_size({"width": 390, "height": 844})
    second.emulate_media(color_scheme="dark")
    wait_state(second, "done", 90)
    close_details(first)
    for each in (first, second):
        for part in ("advanced", "reading", "take"):
            expand(each, part)
    _read(second, "A fox sees nine dogs.")

    before = _shown(second)
    first.check("#spend input[value=both]")
    drag(first, 60)
    first.mouse.up()
    first.check("#spend input[value=bits]")
    first.fill("#seed input", "5")
    first.fill("#prompt textarea", "Another prompt")
    first.click("#run")
    first.wait_for_function("() => document.querySelector('#completion .prompt').textContent === 'Another prompt'")
    wait_state(first, "done")
    first.click("#measure")
    expect(first.locator("#chart [data-state=done]")).to_be_attached()
    first.click("#compare")
    expect(first.locator("#comparison [data-state=done]")).to_be_attached()
    _read(first, "Nine dogs see a fox.")
    with first.expect_download() as file:
        first.click("#export")
    first.go_back()
    wait_state(first, "done")
    assert _shown(second) == before
    words = {first: "They speak of this", second: "They hear of that"}
    for each, prompt in words.items():
        each.fill("#prompt textarea", prompt)
        each.fill("#own-text textarea", prompt)
    with second.expect_download() as other:
        for button in ("#run", "#compare", "#read"):
            for each in words:
                each.click(button)
        second.click("#export")
    assert "bits" in file.value.suggested_filename and other.value.suggested_filename.endswith("-at-90.zip")
    for each, prompt in words.items():
        expect(each.locator("#comparison [data-state=done]")).to_be_attached()
        expect(each.locator("#read-out pre")).to_have_text(prompt)
        expect(each.locator("#completion .prompt")).to_have_text(prompt)
        expect(each.locator("#comparison .prompt").first).to_have_text(prompt)
        wait_state(each, "done")
    assert "mode=directions" in second.url and "seed=3" in second.url and "mode=directions" not in first.url
    for each in (first, second):
        seen_in_all_looks(each, "#completion .original pre", "#completion .cut pre", SLIDER, in_view=True)


def _shown(page: Page) -> tuple[object, ...]:
    """All that a visitor sees and has typed."""
    parts = ("#readouts", "#spend", "#visits", "#chart .status", "#comparison", "#exported", "#read-out")
    said = [page.locator(part).inner_text() for part in parts]
    known = page.locator("#knowledge .facts button").evaluate_all("all => all.map((tile) => 'known' in tile.dataset)")
    fields = [page.input_value(field) for field in (SLIDER, "#prompt textarea", "#own-text textarea", "#seed input")]
    measured = page.locator("#chart .plot").get_attribute("data-measured")
    return page.url, *fields, *said, known, measured, text(page), original(page)


def _read(page: Page, words: str) -> None:
    page.fill("#own-text textarea", words)
    page.click("#read")
    expect(page.locator("#read-out pre")).to_have_text(words)
    expect(page.locator("#read-out [data-state=done]")).to_be_attached()


def test_no_term_is_without_a_sentence(page: Page) -> None:
    wait_state(page, "done")
    close_details(page)
    page.click("#readouts summary")
    page.check("#spend input[value=both]")  # this model has no other methods to compare directions with
    page.get_by_label("other methods").check()
    for part in ("advanced", "reading", "take", "pictures"):
        expand(page, part)
    page.fill("#own-text textarea", "A fox sees nine dogs.")
    page.click("#read")
    page.click("#compare")
    expect(page.locator("#read-out [data-state=done]")).to_be_attached()
    expect(page.locator("#comparison [data-state=done]")).to_be_attached()
    seen: set[str] = set()
    for mode in ("both", "directions", "bits"):
        page.check(f"#spend input[value={mode}]")
        page.locator("#pictures").scroll_into_view_if_needed()
        page.click("[data-method]")
        expect(page.locator("#how .terms").first).to_be_attached()
        page.wait_for_function("() => !document.body.innerText.includes('Drawing …')")
        for name, part in page.evaluate(_PARTS):
            terms = set(terms_in(*part["said"]))
            if name in _IN_VIEW:  # fields of Gradio's say in view what they are
                assert terms <= _IN_VIEW[name][0] and any(_IN_VIEW[name][1] in said for said in part["said"])
                continue
            assert terms - set(terms_in(*part["explained"])) == set(), f"{name} in the mode {mode}"
            seen |= terms
        page.click("#how [data-close]")
    assert {"perplexity", "token", "layer", "bit", "direction", "nats", "divergence", "tokenizer", "GPTQ"} <= seen
    for look in looks(page):
        assert page.evaluate(_SENTENCES) == [], look
