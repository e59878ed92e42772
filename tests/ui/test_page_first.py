"""The first screen in a real browser: what is there at once, what can be asked, where it leads."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from playwright.sync_api import Page, expect

from acip_core.ui.document import PREVIEW_ROUTE
from acip_core.ui.handlers import Handlers
from tests.support.browser import Newcomer
from tests.support.looks import WIDTHS, can_be_seen, looks, seen_in_all_looks
from tests.support.visitor import (
    SLIDER,
    VERY_SLOW,
    Slowness,
    Visit,
    drag,
    expand,
    figure,
    go_to,
    says,
    text,
    wait_state,
    wait_until,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]
_SHIFTS = """
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", WIDTHS)
def test_texts_and_slider_are_on_the_first_screen_and_nothing_moves(
    newcomer: Newcomer, server: tuple[str, Handlers], size: str, theme: str
) -> None:
    width, height = WIDTHS[size]
    page = newcomer(viewport={"width": width, "height": height}).new_page()
    page.add_init_script(_SHIFTS)
    page.goto(f"{server[0]}?__theme={theme}", wait_until="commit")
    expect(page.locator(".first")).to_contain_text("drag the slider")
    expect(page.locator(".first")).to_have_attribute("data-theme", theme)
    expect(page.locator(".first")).to_have_count(0)
    wait_state(page, "done", 100)
    assert page.evaluate("window.shifted") <= 0.05
    prompt = page.locator("#prompt textarea")
    for words in (prompt.input_value(), "\n".join("abcdefgh")):  # of many lines, which scroll
        prompt.fill(words)
        for part in ("#completion .original pre", "#completion .cut pre", SLIDER, "#readouts .figures"):
            box = page.locator(part).bounding_box()
            assert box is not None and box["y"] >= 0 and box["y"] + box["height"] <= height, part
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, part
    assert prompt.evaluate("box => box.scrollHeight > box.clientHeight && getComputedStyle(box).overflowY !== 'hidden'")
    assert page.evaluate("scrollY") == 0
    beyond = """(width) => [...document.querySelectorAll("body *")].filter((each) => !each.closest("#examples")
      && each.getBoundingClientRect().right > width + 0.5).map((each) => each.id || String(each.className))"""
    assert page.evaluate(beyond, width) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_without_scripts_it_says_what_is_missing(newcomer: Newcomer, server: tuple[str, Handlers]) -> None:
    page = newcomer(java_script_enabled=False).new_page()
    page.goto(server[0])
    expect(page.locator(".first noscript p")).to_be_visible()
    expect(page.locator(".first progress")).to_be_hidden()


def test_at_200_percent_nothing_is_cut_off(page: Page) -> None:
    parts = ("#header h1", "#prompt textarea", "#run", "#stop", "#completion .cut pre", "#readouts .figure .term")
    seen_in_all_looks(page, *parts, "#readouts .figure b", "#measure", "#compare-actions button", zoom=2)
    seen_in_all_looks(page, SLIDER, "#readouts .figure b", in_view=True, zoom=2)


def test_buttons_under_the_mouse_can_be_read(page: Page) -> None:
    faded = """async (button) => {
      for (let frames = 0; frames < 2; frames++) await new Promise(requestAnimationFrame);
      await Promise.all(button.getAnimations({ subtree: true }).map((each) => each.finished));
      return button.matches(":hover");
    }"""
    for width, scheme in looks(page):
        for button in ("#run", "#stop", "#measure") if width == "desktop" else ():
            page.hover(button)
            assert page.locator(button).evaluate(faded), (button, scheme)
            can_be_seen(page, button, in_view=True, look=f"{scheme}: ")


def test_the_three_figures_follow_the_thumb(page: Page) -> None:
    assert figure(page, "worse") == "1.00 × nothing is lost" and figure(page, "same") == "100 % of the time"
    drag(page, 60)
    percent = round(float(page.locator(SLIDER).input_value()))
    assert f"({percent} % of the layers)" in figure(page, "size") and " MB " in figure(page, "size")
    value = float(figure(page, "worse").split()[0])
    assert value > 1 and figure(page, "worse").endswith("× the perplexity")
    spoken = page.locator(SLIDER).get_attribute("aria-valuetext") or ""
    assert figure(page, "size") in spoken and figure(page, "worse") in spoken
    page.mouse.up()
    seen_in_all_looks(page, "#readouts .figures", "#readouts .figure", SLIDER, in_view=True)
    seen_in_all_looks(page, "#header h1", "#header .claim > span", "#readouts .tick", "#readouts summary")


def test_back_and_forward_walk_through_what_was_seen(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done", 100)
    texts = {100: text(page)}
    back = page.locator("#visits [data-do=undo]")
    expect(back).to_be_disabled()
    for percent in (80, 50):
        drag(page, percent)
        page.mouse.up()
        wait_state(page, "done", percent)
        texts[percent] = text(page)

    def shows(percent: int) -> None:
        expect(page.locator("#completion [data-percent]")).to_have_attribute("data-percent", str(percent))
        expect(page.locator(SLIDER)).to_have_value(str(percent))
        assert text(page) == texts[percent] and f"size={percent}&" in page.url

    page.go_back()
    shows(80)
    page.go_back()
    shows(100)
    expect(back).to_be_disabled()
    page.go_forward()
    shows(80)
    page.click("#visits [data-do=redo]")
    shows(50)
    expect(page.locator("#visits [data-do=redo]")).to_be_disabled()
    seen_in_all_looks(page, "#visits [data-do]", "#visits [aria-current]")


def test_chips_name_their_prompt_and_outlive_a_reload(visit: Visit, server: tuple[str, Handlers]) -> None:
    page = visit()
    wait_state(page, "done", 100)
    page.fill("#prompt textarea", "A prompt that is much longer than any chip")
    for _ in range(2):  # the same again is the same chip
        page.click("#run")
        wait_state(page, "done", 100)
    chips = page.locator("#visits .chips button")
    expect(chips).to_have_count(2)
    expect(chips.last).to_have_text("100 % A prompt that is much l…")
    page.set_viewport_size({"width": 390, "height": 844})
    page.click("#run")
    wait_state(page, "done", 100)
    beyond = "chip => chip.getBoundingClientRect().right - chip.closest('ol').getBoundingClientRect().right"
    expect(page.locator("#visits [aria-current]")).to_have_count(1)
    page.wait_for_function(f"({beyond})(document.querySelector('#visits [aria-current]')) < -40")
    before = chips.all_text_contents()
    page.click("#stop")  # Gradio reports streams that a reload cuts off
    wait_until(lambda: server[1].visitors.count == 0)
    page.reload()
    wait_state(page, "done", 100)
    expect(chips).to_have_count(2)
    assert chips.all_text_contents() == before
    expect(page.locator("#header .note")).to_have_count(1)  # the model's: nothing was lost, so nothing is said


def test_the_link_can_be_copied_and_opens_the_same_screen(visit: Visit, newcomer: Newcomer) -> None:
    apart = newcomer(permissions=["clipboard-read", "clipboard-write"])  # a clock is that of all tabs of a context
    page = visit(apart, link="size=70&mode=directions")
    wait_state(page, "done", 70)
    button = page.locator("[data-share]")
    with says(page, "[data-share]", "Copied"):
        button.click()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    expect(button).to_have_text("Copy link")
    seen_in_all_looks(page, "#header nav a", "#header nav button", in_view=True)
    page.clock.install()
    page.clock.pause_at(datetime.now() + timedelta(minutes=1))  # what the button says, it says until the clock goes on
    page.evaluate("() => { window.copies = 0; navigator.clipboard.writeText = async () => { window.copies++; }; }")
    for copies in (1, 2):  # again, while it says so
        button.click()
        page.wait_for_function("copies => window.copies === copies", arg=copies)
        expect(button).to_have_text("Copied")
        page.clock.run_for(100)
    page.clock.run_for(5000)  # all that was to come back in the meantime has
    expect(button).to_have_text("Copy link")


def test_the_embedded_view_has_slider_and_texts_alone(newcomer: Newcomer, server: tuple[str, Handlers]) -> None:
    page = newcomer().new_page()
    page.set_viewport_size({"width": 800, "height": 640})
    page.goto(f"{server[0]}?embed#size=60&mode=directions")
    wait_state(page, "done", 60)
    for part in ("#completion .cut pre", SLIDER, "#readouts .figures", "#header .out"):
        expect(page.locator(part)).to_be_visible()
    for part in ("#prompt", "#chart", "#compare-view", "#take", "#visits", "[data-method]"):
        expect(page.locator(part)).to_be_hidden()
    seen_in_all_looks(
        page, "#completion .original pre", "#completion .cut pre", SLIDER, "#readouts .figures", in_view=True
    )
    whole = page.locator("#header .out").get_attribute("href") or ""
    assert "embed" not in whole and "size=60" in whole
    page.close()


def test_a_file_of_another_size_says_so(page: Page) -> None:
    go_to(page, 50)
    expand(page, "take")
    loading = page.locator("#exported .load")
    expect(loading).to_be_hidden()  # it would name no file
    with page.expect_download():
        page.click("#export")
    expect(loading).to_contain_text("-at-50")
    other = page.locator("#exported .other")
    expect(other).to_be_empty()
    drag(page, 80)
    expect(other).to_have_text("is 50 %, not the size shown now")
    codes = page.locator("#exported code").all_text_contents()
    percent = round(float(page.locator(SLIDER).input_value()))
    for start in ("from acip_core", "acip generate", "acip export"):
        code = next(code for code in codes if code.startswith(start))
        assert f"{percent / 100:g}" in code and "directions" in code and "@" not in code
    page.mouse.up()
    seen_in_all_looks(page, "#exported .other", "#exported a.file", "#exported .snippet", "#take-actions button")


def test_buttons_that_remove_a_size_name_it(page: Page) -> None:
    removing = page.locator("#compare-sizes .token .token-remove")
    expect(removing.first).to_have_attribute("title", "Remove 100 %")
    removing.nth(1).click()
    titles = [each.get_attribute("title") for each in removing.all()]
    assert titles == [f"Remove {token.strip()}" for token in page.locator("#compare-sizes .token").all_text_contents()]
    seen_in_all_looks(page, "#compare-sizes .token", "#compare-actions button")


def test_curves_leave_with_the_text_that_they_are_of(page: Page) -> None:
    expand(page, "reading")
    page.fill("#own-text textarea", "A fox sees nine dogs.")
    page.click("#read")
    expect(page.locator("#read-out [data-state=done]")).to_be_attached()
    expect(page.locator("#read-out .read")).to_be_visible()
    seen_in_all_looks(page, "#read-out pre", "#read-out .label", "#read-out .legend span", "#read-out .xtitle")
    page.fill("#own-text textarea", "")
    expect(page.locator("#read-out .read")).to_be_hidden()


def test_a_slow_server_is_not_called_gone(visit: Visit, slow: Slowness) -> None:
    slow.seconds = VERY_SLOW
    page = visit()
    page.evaluate("() => { const wait = AbortSignal.timeout; AbortSignal.timeout = (time) => wait(time / 5); }")
    page.route("**/acip/state", lambda route: None)  # no answer, though the connection is taken
    note = page.locator("#header .note").last
    expect(note).to_contain_text("slow to answer")
    seen_in_all_looks(page, "#header .note", in_view=True)
    page.unroute("**/acip/state")
    expect(page.locator("#header .note")).to_have_count(1)
    page.click("#stop")


def test_a_target_out_of_reach_moves_nothing(page: Page) -> None:
    page.click("#readouts summary")
    places = "['#spend', '#chart', '#compare-view'].map((name) => document.querySelector(name).offsetTop)"
    before = page.evaluate(places)
    page.fill(".aim input", "0.00001")
    page.press(".aim input", "Enter")
    expect(page.locator(".aim .told")).to_contain_text("not reachable")
    assert page.evaluate(places) == before
    seen_in_all_looks(page, ".aim .told", "#readouts .tile")


def test_others_see_a_preview_of_the_link(page: Page, server: tuple[str, Handlers]) -> None:
    image, address = page.locator('meta[property="og:image"]'), server[0] + PREVIEW_ROUTE
    expect(image).to_have_count(1)
    assert image.get_attribute("content") == address
    loaded = page.evaluate(
        "(source) => new Promise((done) => { const image = new Image(); image.onload = () => done(image.width);"
        " image.src = source; })",
        address,
    )
    assert loaded == 1200
