"""The strip of facts in a real browser: it follows the slider, says what a size says, and becomes a picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page, expect

from acip_core.artifacts.knowledge import Knowledge, KnownSizes
from acip_core.artifacts.loading import Loaded
from acip_core.model.size_planner import DIRECTIONS
from acip_core.ui.handlers import Handlers
from tests.support.browser import Newcomer, newcomers
from tests.support.knowledge import lit, with_knowledge
from tests.support.looks import looks, seen_in_all_looks
from tests.support.visitor import SLIDER, drag, go_to, opened, requests_of, says, served, tiny_loaded, wait_state

pytestmark = [pytest.mark.browser, pytest.mark.long]

Visit = Callable[..., Page]


TILES = "#knowledge [data-fact]"
_ABOVE = """() => {
  const edge = (selector) => document.querySelector(selector).getBoundingClientRect();
  const [texts, panel] = [edge("#completion"), edge(".column > #size-group")];
  return texts.top >= 0 && Math.abs(texts.bottom - panel.top) <= 1;
}"""


def slow_to_forget(loaded: Loaded) -> Loaded:
    """The same model, whose figures say that it knows all down to 80 % and loses a fact with each further percent."""
    found = loaded.knowledge
    assert found is not None
    of = found.modes[DIRECTIONS]
    rank = of.rank.clone().fill_(1)
    for place in range(21, len(rank)):
        rank[place, list(found.strip)[: place - 20]] = 7
    changed = KnownSizes(of.bytes, of.probability, rank, of.top, of.top_probability)
    return replace(loaded, knowledge=replace(found, modes={DIRECTIONS: changed}))


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return slow_to_forget(with_knowledge(tiny_loaded()))


@pytest.fixture(scope="module")
def knowledge(loaded: Loaded) -> Knowledge:
    assert loaded.knowledge is not None
    return loaded.knowledge


@pytest.fixture(scope="module")
def server(loaded: Loaded) -> Iterator[tuple[str, Handlers]]:
    with served(loaded) as (address, handlers):
        handlers.model.engine.ends = frozenset()
        yield address, handlers


@pytest.fixture
def visit(profile: BrowserContext, server: tuple[str, Handlers]) -> Iterator[Visit]:
    wrong: list[str] = []
    with newcomers(profile) as newcomer:
        yield lambda link="", context=None, **options: opened(context or newcomer(**options), server[0], wrong, link)
    assert wrong == []


def known_at(server: tuple[str, Handlers], percent: float) -> str:
    modes = server[1].model.modes
    told = modes.knowledge.known(modes.directions)
    assert told is not None
    return told["flags"][modes.directions.percents.index(percent)]


def test_the_page_opens_at_the_smallest_size_that_knows_nine_in_ten(visit: Visit, server: tuple[str, Handlers]) -> None:
    modes = server[1].model.modes
    opening = modes.knowledge.opening(modes.directions)
    assert 70 < opening < 80
    page = visit()
    wait_state(page, "done", int(opening))
    expect(page.locator(SLIDER)).to_have_value(str(opening))
    assert lit(page) == known_at(server, opening) and f"size={opening}&" in page.url
    first = ("#completion .original pre", "#completion .cut pre", SLIDER, "#readouts .figures", "#knowledge .count")
    seen_in_all_looks(page, *first, in_view=True)
    linked = visit("size=90", page.context)
    wait_state(linked, "done", 90)
    assert lit(linked) == known_at(server, 90)


def test_on_a_phone_the_texts_stand_right_above_the_slider(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done")
    parts = ["ask", "examples", "completion", "knowledge", "size-group"]
    place = f"() => document.activeElement.closest('{', '.join(f'.column > #{part}' for part in parts)}')?.id"
    for width, scheme in looks(page):
        top = {
            part: page.locator(f".column > #{part}").evaluate("part => part.getBoundingClientRect().y")
            for part in parts
        }
        seen = sorted(parts, key=lambda part: top[part])
        last = ["completion", "knowledge"] if width == "desktop" else ["knowledge", "completion"]
        assert seen == ["ask", "examples", *last, "size-group"], (width, scheme)
        page.focus("#prompt textarea")
        stops = ["ask"]  # Tab goes as one reads
        while stops[-1:] != ["size-group"] and len(stops) < 40:
            page.keyboard.press("Tab")
            stops += [at] if (at := page.evaluate(place)) else []
        assert list(dict.fromkeys(stops)) == seen, (width, scheme)
        page.evaluate("scrollTo(0, 0)")
        page.click("#readouts summary")
        if width == "phone":  # the panel grows upwards, and the texts go with it
            page.wait_for_function(_ABOVE)
        else:
            assert page.evaluate("scrollY") == 0
        page.click("#readouts summary")


def test_it_is_in_the_first_paint(server: tuple[str, Handlers], newcomer: Newcomer) -> None:
    page = newcomer().new_page()
    page.route(re.compile(r"/acip/js/"), lambda route: route.abort())  # none of the page's own scripts
    page.goto(server[0])
    page.wait_for_selector(TILES, state="attached")  # behind what stands there until the scripts take it away
    modes = server[1].model.modes
    flags = known_at(server, modes.knowledge.opening(modes.directions))
    assert lit(page) == flags
    expect(page.locator("#knowledge .count b")).to_have_text(str(flags.count("1")))


def test_tiles_follow_within_the_sliders_own_event(
    page: Page, server: tuple[str, Handlers], knowledge: Knowledge
) -> None:
    requests = requests_of(page)
    seen = page.evaluate(
        """() => {
            const slider = document.querySelector('#size input[type=range]'), seen = {};
            for (let at = 100; at >= 30; at--) {
                slider.value = String(at);
                slider.dispatchEvent(new Event('input', { bubbles: true }));
                const tiles = [...document.querySelectorAll('#knowledge [data-fact]')];
                seen[at] = [tiles.map(tile => tile.hasAttribute('data-known') ? '1' : '0').join(''),
                            document.querySelector('#knowledge [data-count]').textContent,
                            tiles.filter(tile => tile.ariaLabel.endsWith(', forgotten')).length];
            }
            return seen;
        }"""
    )
    for percent, (flags, count, forgotten) in seen.items():
        assert flags == known_at(server, int(percent))
        assert count == str(flags.count("1")) and forgotten == flags.count("0")
    assert len({flags for flags, _, _ in seen.values()}) == len(knowledge.strip) + 1
    assert not [url for url in requests if "knowledge" in url]


def test_a_drag_moves_nothing_on_the_page(page: Page) -> None:
    page.evaluate(
        "() => new PerformanceObserver(list => { for (const entry of list.getEntries())"
        " for (const source of entry.sources) if (source.node?.parentElement?.closest?.('#knowledge'))"
        " window.shifted = (window.shifted ?? 0) + entry.value; }).observe({ type: 'layout-shift' })"
    )
    height = page.locator("#knowledge").bounding_box()
    drag(page, 40)
    after = page.locator("#knowledge").bounding_box()
    page.mouse.up()
    assert height is not None and after is not None and height["height"] == after["height"]
    assert page.evaluate("() => window.shifted ?? 0") == 0


def test_no_answer_is_cut_off_and_every_group_is_named(page: Page) -> None:
    go_to(page, 60)
    for width, _ in looks(page):
        cut = "tiles => tiles.filter(tile => tile.scrollWidth > tile.clientWidth).map(tile => tile.textContent)"
        assert page.locator(TILES).evaluate_all(cut) == []
        hidden = (
            "names => names.filter((e) => !e.clientHeight || e.scrollWidth > e.clientWidth).map((e) => e.innerText)"
        )
        assert page.locator("#knowledge .facts p").evaluate_all(hidden) == [], width
    seen_in_all_looks(page, TILES, "#knowledge .facts p", "#knowledge .count", "#knowledge [data-copy]", in_view=True)
    seen_in_all_looks(page, TILES, "#knowledge .facts p", "#knowledge .count", "#knowledge [data-copy]", zoom=2)


def test_a_tile_says_what_the_size_says(page: Page, server: tuple[str, Handlers], knowledge: Knowledge) -> None:
    go_to(page, 60)
    card = page.locator("#knowledge .said")
    fact = knowledge.facts[knowledge.strip[0]]
    modes = server[1].model.modes
    said = modes.knowledge.said(modes.directions)

    def check(percent: int) -> None:
        place = modes.directions.percents.index(percent)
        chance, rank, top, chances = said["said"][said["sizes"][place]][0]
        expect(card.locator(".verdict")).to_contain_text(f"{percent} % says")
        tokens = [said["tokens"][token] for token in top]
        words = [token.strip() or token.replace("\n", "⏎").replace(" ", "␣") or "∅" for token in tokens]
        shown = card.locator("li > :first-child").all_inner_texts()
        if rank <= 5:
            words[rank - 1] += " ✓"
        assert shown[:5] == words
        assert len(shown) == (5 if rank <= 5 else 6) and chances == sorted(chances, reverse=True) and 0 <= chance <= 1

    tile = page.locator(TILES).first
    expect(card).to_be_hidden()
    tile.hover()
    expect(card).to_be_visible()
    expect(card.locator(".prompt")).to_have_text(f"{fact.prompt} {fact.answer.strip()}")
    check(60)
    page.mouse.move(0, 0)
    expect(card).to_be_hidden()
    tile.focus()
    expect(card).to_be_visible()
    assert tile.get_attribute("aria-describedby") == card.get_attribute("id")
    page.evaluate(
        "() => { const slider = document.querySelector('#size input[type=range]'); slider.value = '45';"
        " slider.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    check(45)
    seen_in_all_looks(page, "#knowledge .said", in_view=True)
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()


def test_arrows_go_from_tile_to_tile_and_tab_past_them(page: Page) -> None:
    page.locator("#knowledge [data-copy]").focus()
    page.keyboard.press("Tab")
    for step, number in (
        ("", 0),
        ("ArrowRight", 1),
        ("ArrowDown", 2),
        ("ArrowLeft", 1),
        ("ArrowUp", 0),
        ("ArrowLeft", 0),
    ):
        if step:
            page.keyboard.press(step)
        expect(page.locator(f"#knowledge [data-fact='{number}']")).to_be_focused()
    page.keyboard.press("Tab")
    assert not page.evaluate("() => document.activeElement.closest('#knowledge')")


def test_a_finger_opens_a_card_and_closes_it_elsewhere(visit: Visit) -> None:
    page = visit(has_touch=True, viewport={"width": 390, "height": 844})
    page.set_viewport_size({"width": 390, "height": 844})
    tile, card = page.locator(TILES).nth(3), page.locator("#knowledge .said")
    tile.scroll_into_view_if_needed()
    tile.tap()
    expect(card).to_be_visible()
    box = card.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert (page.locator("#knowledge").bounding_box() or {})["height"] <= 170
    page.locator("#knowledge .count").tap()
    page.locator("#completion .label").tap()
    expect(card).to_be_hidden()


def test_a_screen_reader_hears_one_sentence_at_rest(page: Page, knowledge: Knowledge) -> None:
    go_to(page, 80)
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    spoken = page.locator("#knowledge .rest")
    total = len(knowledge.strip)
    expect(spoken).to_have_text(re.compile(rf"^78 % knows {total - 2} of {total}; forgotten: \S+, \S+\.$"))
    assert spoken.get_attribute("role") == "status"
    groups = page.locator("#knowledge ul")
    assert groups.count() > 3 and all(groups.nth(i).get_attribute("aria-label") for i in range(groups.count()))
    for look in looks(page):
        expect(page.get_by_role("list").and_(groups)).to_have_count(groups.count())  # not hidden from it
        expect(page.get_by_role("status").and_(spoken)).to_have_count(1)
        found = Axe().run(page, context="#knowledge")
        assert not found.response["violations"], (look, found.generate_report())


def test_the_strip_is_copied_or_saved_as_a_picture(page: Page) -> None:
    go_to(page, 70)
    button = page.locator("#knowledge [data-copy]")
    page.evaluate(
        "() => { navigator.clipboard.write = async ([item]) => { window.copied = await item.getType('image/png'); }; }"
    )
    drawn = """async () => {
        const image = await createImageBitmap(window.copied), canvas = new OffscreenCanvas(1, 1).getContext("2d");
        canvas.drawImage(image, 0, 0);
        return [image.width, image.height, canvas.getImageData(0, 0, 1, 1).data[0]];
    }"""
    page.evaluate("() => { navigator.clipboard.writeText = async () => { window.linked = true; }; }")
    page.click("#knowledge [data-portion]")  # is no button, least of all that of the link
    assert not page.evaluate("() => window.linked")
    for _, scheme in looks(page):
        page.evaluate("() => { window.copied = null; }")
        with says(page, "#knowledge [data-copy]", "Copied"):
            button.click()
            page.wait_for_function("() => window.copied")
        *size, red = page.evaluate(drawn)
        assert size == [2400, 1350] and (red > 200) == (scheme == "light")
    page.evaluate("() => { navigator.clipboard.write = () => Promise.reject(new Error('not allowed')); }")
    with says(page, "#knowledge [data-copy]", "Saved"), page.expect_download() as download:
        button.click()
    assert download.value.suggested_filename.endswith("-knows.png")
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    page.locator(TILES).first.focus()
    seen_in_all_looks(page, "#knowledge .said", "#knowledge [data-copy]", in_view=True)
