"""What stands on the page besides the text, in a real browser: one tab for all, whatever was done there before."""

from __future__ import annotations

import base64
import re
from contextlib import nullcontext

import pytest
from playwright.sync_api import Page, expect

from acip_core.generation.engine import Engine
from acip_core.generation.tokens import Token
from tests.support.looks import looks, seen_in_all_looks
from tests.support.visitor import (
    MARKUP,
    SLIDER,
    drag,
    expand,
    expected,
    readout,
    requests_of,
    says,
    text,
    wait_state,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]


def test_readouts_change_within_the_event_itself(page: Page) -> None:
    shown = page.evaluate(
        """() => {
          const slider = document.querySelector("#size input[type=range]"), seen = [];
          for (const value of [90, 55, 31]) {
            slider.value = value;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
            seen.push(document.querySelector('#readouts [data-key="ratio"]').textContent);
          }
          return seen;
        }"""
    )
    assert [round(100 * float(ratio)) for ratio in shown] == [90, 55, 31]


def test_keyboard(page: Page, engine: Engine) -> None:
    page.focus(SLIDER)
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    wait_state(page, "done", 95)
    assert float(readout(page, "ratio")) == pytest.approx(0.95, abs=0.01)
    assert text(page) == expected(engine, 95)
    assert page.locator("#chart .plot").get_attribute("data-percent") == "95"


def test_measure_fills_in_points(page: Page) -> None:
    page.click("#measure")
    page.wait_for_selector('#chart [data-state="done"]')
    assert page.locator("#chart .plot").get_attribute("data-measured") == "2"
    status = page.locator("#chart p.status").inner_text()
    assert status.startswith("Measured 100 %") and "C4" in status and "Wikipedia" in status and "32 windows" in status


def test_markup_is_shown_as_text(page: Page, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "compare", lambda *_, **__: iter([{0: Token(MARKUP, 1, 3, 3, "end")}]))
    page.fill("#prompt textarea", MARKUP)
    page.click("#run")
    page.wait_for_function("text => document.querySelector('#completion .prompt').textContent === text", arg=MARKUP)
    wait_state(page, "done")
    assert text(page) == MARKUP
    assert page.locator("#completion img, #completion b, #completion script").count() == 0
    assert page.evaluate("window.hacked") is None


def test_odd_prompts_give_text_or_one_sentence(page: Page) -> None:
    wait_state(page, "done")
    prompts = {
        "": "The prompt is empty",
        "   \n ": "The prompt is empty",
        "word " * 20_000: "shorten the prompt",
        "\x00\x01\x07 bell": None,
        "👍🏽 🇩🇪 👨‍👩‍👧": None,
        "مرحبا بالعالم": None,
    }
    for prompt, complaint in prompts.items():
        page.fill("#prompt textarea", prompt)
        with says(page, ".toast-wrap", complaint) if complaint else nullcontext():
            page.click("#run")
            wait_state(page, "error" if complaint else "done", 100)
        if complaint:
            expect(page.locator("#completion .status")).to_contain_text(complaint)
        else:
            assert len(text(page)) > 10


def test_sizes_side_by_side(page: Page) -> None:
    page.fill("#prompt textarea", MARKUP)
    page.click("#compare")
    page.wait_for_selector('#comparison [data-state="done"]')
    columns = page.locator("#comparison .column")
    assert [columns.nth(i).get_attribute("data-percent") for i in range(columns.count())] == ["100", "80", "60", "40"]
    assert all(columns.nth(i).locator(".prompt").text_content() == MARKUP for i in range(4))
    assert page.locator("#comparison img, #comparison pre b, #comparison script").count() == 0
    assert "MB" in (columns.nth(1).locator(".head").text_content() or "")
    assert "the full model" in (columns.nth(0).locator(".agreement").text_content() or "")
    assert columns.nth(1).locator('.text span[title*="likely to the full model"]').count() > 0
    page.click("#stop")
    columns.nth(2).locator(".head").focus()
    page.keyboard.press("Enter")
    wait_state(page, "done", 60)
    assert page.input_value("#size input[type=number]") == "60"


def test_a_name_in_the_legend_hides_its_lines_and_shows_them_again(page: Page) -> None:
    name = page.locator("#chart .entries .term", has_text="Wikipedia")
    visible = "() => document.querySelector('#chart .plot').data.map(({ visible }) => visible ?? true)"
    before = page.evaluate(visible)
    name.focus()
    page.keyboard.press("Enter")
    expect(name).to_have_attribute("aria-pressed", "false")
    page.wait_for_function("() => document.querySelector('#chart .plot').data.some(({ visible }) => visible === false)")
    hidden = page.evaluate("() => document.querySelector('#chart .plot').data.filter((t) => t.visible === false)")
    assert {trace["name"] for trace in hidden} == {"Wikipedia"}
    name.click()
    expect(name).to_have_attribute("aria-pressed", "true")
    page.wait_for_function(
        "() => document.querySelector('#chart .plot').data.every(({ visible }) => visible !== false)"
    )
    assert len(before) == len(page.evaluate(visible))


def test_the_plot_can_be_saved_and_clicked(page: Page) -> None:
    wait_state(page, "done")
    page.click("#stop")
    page.wait_for_selector('#chart .plot[data-ready="true"]')
    tables = set()
    for look in looks(page):
        with page.expect_download() as table:
            page.click('[data-save="csv"]')
        tables.add(table.value.path().read_text(encoding="utf-8"))
        with page.expect_download() as image:
            page.click('[data-save="png"]')
        assert image.value.path().read_bytes().startswith(b"\x89PNG"), look
    assert len(tables) == 1
    head, *lines = tables.pop().splitlines()
    assert head == "series,size in %,MB,perplexity,± %" and len(lines) > 4
    assert {line.split(",")[0] for line in lines} >= {'"C4"', '"Wikipedia"'}
    assert all(float(line.rsplit(",", 2)[1]) > 0 for line in lines)
    at = page.evaluate(
        """() => {
          const plot = document.querySelector("#chart .plot"), { xaxis, yaxis } = plot._fullLayout;
          const trace = plot.data[0], box = plot.getBoundingClientRect(), i = 0;
          return { x: box.x + xaxis._offset + xaxis.d2p(trace.x[i]), y: box.y + yaxis._offset + yaxis.d2p(trace.y[i]),
                   percent: String(Math.round(trace.meta[i])) };
        }"""
    )
    page.mouse.move(at["x"], at["y"])
    page.mouse.click(at["x"], at["y"])
    page.wait_for_function("p => document.querySelector('#size input[type=number]').value === p", arg=at["percent"])


def test_a_target_moves_the_slider_and_follows_it(page: Page) -> None:
    wait_state(page, "done")
    page.click("#stop")
    if not page.locator("#readouts details[open]").count():
        page.click("#readouts summary")
    target, unit, told = page.locator(".aim input"), page.locator(".aim select"), page.locator(".aim .told")
    tiles = {"bytes": "megabytes", "parameters": "parameters"}
    for kind in unit.locator("option").evaluate_all("options => options.map((option) => option.value)"):
        unit.select_option(kind)
        drag(page, 60)
        shown = target.input_value()
        if kind in tiles:
            assert abs(float(shown) - float(readout(page, tiles[kind]).split()[0])) <= 0.5
        drag(page, 90)
        assert target.input_value() != shown
        target.fill(shown)
        target.press("Enter")
        reached = float(page.input_value("#size input[type=number]"))
        assert abs(reached - 60) <= (0 if kind == "parameters" else 5)
        assert told.text_content() == ""
    unit.select_option("parameters")
    target.fill("0.0001")
    target.press("Enter")
    assert page.input_value("#size input[type=number]") == page.locator("#size input[type=range]").get_attribute("min")
    assert "not reachable" in (told.text_content() or "")


def drop(page: Page, name: str, content: bytes, times: int = 1) -> None:
    """Drop a file with this content, repeated, on the part for one's own text."""
    page.evaluate(
        """([name, content, times]) => {
            const files = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
            files.items.add(new File(Array(times).fill(bytes), name));
            const event = { dataTransfer: files, bubbles: true, cancelable: true };
            const box = document.querySelector("#own-text textarea");
            box.dispatchEvent(new DragEvent("dragover", event));
            box.dispatchEvent(new DragEvent("drop", event));
        }""",
        [name, base64.b64encode(content).decode(), times],
    )


def test_a_text_of_ones_own(page: Page) -> None:
    wait_state(page, "done", 100)
    expand(page, "reading")
    page.click("#own-text textarea")
    own = "A fox <img src=x onerror=alert(1)> & nine dogs, 🙂 Łódź.\n" * 3
    drop(page, "own.md", own.encode())
    expect(page.locator("#own-text textarea")).to_have_value(own)
    page.click("#read")
    expect(page.locator("#read-out [data-state=done]")).to_be_attached()
    passage = page.locator("#read-out pre")
    assert passage.text_content() == own and passage.locator("img").count() == 0
    expect(page.locator("#read-out .plot")).to_have_attribute("data-points", "15")
    requests = requests_of(page)
    drag(page, 38)
    expect(passage).to_have_attribute("data-percent", re.compile("35|40"))
    assert not requests
    label = page.locator("#read-out .label").text_content() or ""
    assert label.startswith(("At 35 %", "At 40 %")) and "the full model's" in label
    page.mouse.up()


@pytest.mark.parametrize(
    ("name", "content", "times", "message"),
    [
        ("film.txt", b"x" * 50, 1_000_000, "film.txt has 50.0 MB; at most 1 MB is taken."),
        ("long.md", b"a word ", 40_000, "long.md has 280,000 characters; at most 200,000 are taken."),
        ("<b>photo</b>.txt", b"\x89PNG\xff\xfe\x00", 1, "<b>photo</b>.txt is no text in UTF-8."),
        ("zeros.txt", b"a\0b", 1, "zeros.txt is no text: it holds zero bytes."),
        ("empty.txt", b"", 1, "empty.txt is empty."),
    ],
)
def test_what_is_dropped_and_no_text(page: Page, name: str, content: bytes, times: int, message: str) -> None:
    expand(page, "reading")
    page.click("#own-text textarea")
    page.fill("#own-text textarea", "typed before")
    drop(page, name, content, times)
    expect(page.locator("#read-out .status")).to_have_text(message)
    assert page.input_value("#own-text textarea") == "typed before"


def test_inside_the_cut_moves_with_the_slider(page: Page) -> None:
    wait_state(page, "done", 100)
    expand(page, "pictures")
    expect(page.locator("#score-map .plot[data-ready=true]")).to_have_count(2)
    own = page.locator("#efficiency [data-key=parameters] td")
    assert own.first.text_content() == own.nth(1).text_content()
    page.locator(SLIDER).focus()
    for _ in range(3):
        page.keyboard.press("PageDown")
    expect(page.locator("#efficiency .label")).not_to_have_text("What 100 % costs to run")
    percent = page.locator(SLIDER).input_value()
    for plot in page.locator("#score-map .plot").all():
        expect(plot).to_have_attribute("data-percent", percent)
    assert page.evaluate("Math.max(...document.querySelector('#score-map .plot').data[1].y)") <= 100
    assert page.evaluate("document.querySelectorAll('#score-map .plot')[1].data[0].text.flat().includes('')")
    assert own.first.text_content() != own.nth(1).text_content()
    page.click("#efficiency [data-do=time]")
    expect(page.locator("#efficiency [data-key=speed] td").first).not_to_have_text("–")
    if not page.locator("#readouts details[open]").count():
        page.click("#readouts summary")
    seen_in_all_looks(page, "#efficiency [data-key=speed] td", ".tile [data-key=speed]", ".tile [data-key=megabytes]")


def test_page_keys_move_by_ten(page: Page) -> None:
    page.focus(SLIDER)
    for key, percent in [("PageDown", "90"), ("ArrowLeft", "89"), ("PageDown", "79"), ("PageUp", "89"), ("Home", "30")]:
        page.keyboard.press(key)
        assert page.locator(SLIDER).input_value() == percent
