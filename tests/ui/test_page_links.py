"""The page in a real browser: shared links, other servers and models, everybody's access."""

from __future__ import annotations

import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.loading import open_model
from acip_core.model.base_model import DEFAULT_MODEL
from acip_core.progress import finish
from acip_core.ui.handlers import Handlers
from acip_core.ui.links import AUTHORS_CODE
from acip_core.ui.preparation import Preparation
from acip_core.ui.server import PageServer
from tests.support.browser import PATIENCE, Newcomer
from tests.support.looks import looks, nothing_in_anybodys_way, seen_in_all_looks
from tests.support.visitor import (
    SLIDER,
    VERY_SLOW,
    Visit,
    drag,
    expected,
    opened,
    page_port,
    readout,
    says,
    served,
    shown,
    text,
    tiny_loaded,
    wait_state,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]


def test_a_server_that_stops_in_an_orderly_way_is_missed(newcomer: Newcomer) -> None:
    with page_port() as port, PageServer("127.0.0.1", port) as server:
        handlers = shown(server, tiny_loaded())
        engine, passes, closing = handlers.model.engine, count(), threading.Event()
        engine.ends, forward = frozenset(), engine.forward

        def held(*rest: Any, **options: Any) -> Any:
            time.sleep(VERY_SLOW)
            if next(passes) > 12:  # in the middle of the text
                closing.wait(PATIENCE / 1000)
            return forward(*rest, **options)

        engine.forward = held
        page = opened(newcomer(), server.address, [])
        page.wait_for_function("document.querySelector('#completion .text').textContent.length > 3")
        page.fill("#prompt textarea", "Another prompt")
        closing.set()
    expect(page.locator("#header .note")).to_contain_text("The server is gone")
    with says(page, ".toast-wrap", "onnection"):
        page.click("#run")
    expect(page.locator(".toast-wrap")).to_be_hidden()  # the note says it
    with PageServer("127.0.0.1", port) as server:
        shown(server, tiny_loaded())
        expect(page.locator("#header .note")).to_contain_text("connected again")
        wait_state(page, "done", 100)
        assert page.input_value("#prompt textarea") == "Another prompt"
        page.close()


def test_a_page_whose_answers_are_cut_on_the_way_connects_again_once_and_then_says_so(newcomer: Newcomer) -> None:
    def sooner(route: Route) -> None:  # a clock moved forward would not be that which requests are timed by
        answer = route.fetch()
        script = answer.text().replace("DEAF_MS = 30_000", "DEAF_MS = 1000")
        assert script != answer.text()
        route.fulfill(content_type="text/javascript", headers={"cache-control": "no-store"}, body=script)

    with served(tiny_loaded()) as (address, _):
        page = newcomer(locale="en-GB").new_page()  # in a context of its own, which has kept no scripts
        page.route("**/answers.js", sooner)
        page.route("**/queue/data*", lambda route: route.fulfill(content_type="text/event-stream", body=""))
        page.goto(f"{address}#prompt=Mine&size=70&mode=directions")
        expect(page.locator("#header .note").first).to_contain_text("connected again")
        expect(page.locator("#header .note").last).to_contain_text("Load this page anew")
        page.unroute_all()
        page.reload()
        wait_state(page, "done", 70)
        expect(page.locator("#header .note")).to_have_count(0)
        page.close()


def test_without_curves_and_with_adapters_that_leave_no_room_for_30_percent(newcomer: Newcomer) -> None:
    wrong: list[str] = []
    with served(tiny_loaded(adapter_rank=7, curves=False)) as (address, _):
        page = opened(newcomer(), address, wrong)
        low = int(page.locator(SLIDER).get_attribute("min") or 0)
        assert low > 30
        tens = [str(ten) for ten in range(0, 101, 10) if ten >= low]  # nothing was measured, and sizes are marked
        assert page.locator("#readouts .tick").all_text_contents() == tens
        page.focus(SLIDER)
        page.keyboard.press("Home")
        wait_state(page, "done", low)
        assert float(readout(page, "ratio")) == pytest.approx(low / 100, abs=0.02)
        page.close()
    assert wrong == []


@pytest.mark.real
def test_the_default_model(newcomer: Newcomer, default_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preparation, "start", lambda self: None)  # its codes take minutes
    assert default_artifact(DEFAULT_MODEL).is_dir()
    wrong: list[str] = []
    with served(finish(open_model())) as (address, handlers):
        page = opened(newcomer(), address, wrong)
        page.wait_for_function("document.querySelector('#completion .text').textContent.includes('Bell')")
        page.set_viewport_size({"width": 390, "height": 844})
        boxes = [each.bounding_box() for each in page.locator("#header nav :is(a, button)").all()]
        middles = [box["y"] + box["height"] / 2 for box in boxes if box]
        assert len(middles) > 5 and max(middles) - min(middles) < 10  # one row: there is no room for two
        seen_in_all_looks(page, "#header nav :is(a, button)", "#knowledge .facts li:last-child button", in_view=True)
        drag(page, 60)
        page.mouse.up()
        percent = round(float(page.locator(SLIDER).input_value()))
        wait_state(page, "done", percent)
        assert len(text(page).split()) > 5
        assert text(page) == expected(handlers.model.engine, percent)
        page.close()
    assert wrong == []


def test_comparing_one_size_is_refused_and_the_texts_stay(visit: Visit) -> None:
    page = visit()
    page.click("#compare")
    page.wait_for_selector('#comparison [data-state="done"]')
    before = page.locator("#comparison .columns").text_content()
    for _ in range(3):
        page.locator("#compare-sizes input").focus()
        page.keyboard.press("Backspace")
    page.click("#compare")
    page.wait_for_selector('#comparison [data-state="error"]')
    assert "two to 5" in (page.locator("#comparison .status").text_content() or "")
    assert page.locator("#comparison .columns").text_content() == before


def test_a_shared_link_restores_the_screen(visit: Visit) -> None:
    page = visit()
    page.locator("#prompt textarea").fill("Über <b>all</b> & more?")
    page.click("#advanced button")
    page.click("#seed input")
    page.fill("#seed input", "7")
    drag(page, 63)
    page.mouse.up()
    wait_state(page, "done", 63)
    page.locator("#compare-sizes .token-remove").first.click()
    page.click("#compare")
    expect(page.locator("#comparison .column")).to_have_count(3)
    written, address = text(page), page.url
    assert "size=63" in address and "seed=7" in address
    other = visit(page.context, address.partition("#")[2])  # of what is in the address, tabs share nothing
    wait_state(other, "done", 63)
    assert other.locator("#prompt textarea").input_value() == "Über <b>all</b> & more?"
    assert other.locator(SLIDER).input_value() == "63" and readout(other, "ratio") == readout(page, "ratio")
    assert text(other) == written
    expect(other.locator("#compare-sizes .token")).to_have_text(["80 %", "60 %", "40 %"])
    other.click("#advanced button")
    other.click("#seed input")
    expect(other.locator("#seed input")).to_have_value("7")
    other.evaluate("location.hash = 'size=80'")  # another link pasted into the same tab
    wait_state(other, "done", 80)


def test_a_link_says_where_everything_comes_from(visit: Visit) -> None:
    page = visit()
    links = page.locator("#header nav a[href^='https://']")
    found = {link.text_content(): link for link in links.all()}
    assert {"Paper", "Code", "C4", "Wikipedia"} <= set(found)  # a local model has no card
    assert found["Code"].get_attribute("href") == AUTHORS_CODE  # of this program no address is known
    assert "licence" in (found["C4"].get_attribute("data-meaning") or "").lower()
    page.focus("#header nav a")
    seen_in_all_looks(page, "#header nav a", "#meaning", in_view=True)  # its sentence, too
    for link in found.values():
        assert link.get_attribute("data-meaning") and link.get_attribute("rel") == "noopener"


def test_focus_goes_as_one_reads(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done", 100)
    part = """() => document.activeElement.closest(
      "#header, #ask, #examples, #completion, #size, #readouts, #spend, #chart, #visits, #advanced, "
      + "#measure-actions, #compare-view, #reading, #take, #pictures")?.id ?? ''"""
    name = """() => {
      const { ariaLabel, labels, textContent, title } = document.activeElement;
      const words = [...(labels ?? [])].map((label) => label.textContent).join("").trim();
      return ariaLabel || words || textContent.trim() || title;
    }"""
    left = ["header", "ask", "examples", "completion", "size", "readouts"]
    right = ["chart", "measure-actions", "visits", "advanced"]
    for width, scheme in looks(page):
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        order: list[str] = []
        stops: list[str] = []  # what a screen reader has to say of each
        for _ in range(90):
            page.keyboard.press("Tab")
            at = page.evaluate(part)
            stops.append(page.evaluate(name))
            if at and at != (order or [""])[-1]:
                order.append(at)
            if at == "pictures":
                break
        assert "" not in stops, (width, scheme)
        spend = ["spend"] if width == "desktop" else []  # on a phone behind Details
        assert order == [*left, *spend, *right, "compare-view", "reading", "take", "pictures"], (width, scheme)


def test_the_address_keeps_what_stands_before_the_link(newcomer: Newcomer, server: tuple[str, Handlers]) -> None:
    page = newcomer().new_page()
    page.goto(f"{server[0]}?__theme=dark#size=80")
    page.wait_for_selector("#chart .plot[data-ready=true]")
    wait_state(page, "done", 80)
    assert "?__theme=dark#" in page.url and "size=80" in page.url
    clip = page.locator("#chart .plot .overplot [clip-path]").first.get_attribute("clip-path") or ""
    assert clip.split("#")[0].strip("url('") in ("", page.url.split("#")[0])  # lines would leave the plot otherwise
    page.close()


@pytest.mark.parametrize(
    ("link", "percent", "state"),
    [
        ("size=NaN&temperature=hot&seed=&chat=maybe", 100, "done"),
        ("size=-5&temperature=99&top_p=-1&length=1&seed=1e99", None, "done"),
        ("%%%&size=50&prompt=%3Cscript%3Ealert(1)%3C/script%3E&constructor=1&__proto__=2", 50, "done"),
        ("prompt=" + "x" * 9000, 100, "error"),
        ("chat=1&size=60", 60, "done"),  # from a model with a chat template; this one has none
    ],
)
def test_nonsense_in_a_link(visit: Visit, link: str, percent: int | None, state: str) -> None:
    page = visit(link=link)
    wait_state(page, state, percent or int(page.locator(SLIDER).get_attribute("min") or 0))
    expect(page.locator("#completion .status")).not_to_contain_text("wrong")
    assert "chat=1" not in page.url


def test_a_link_from_another_model_says_so(visit: Visit) -> None:
    page = visit(link="model=<b>other</b>&size=70")
    expect(page.locator("#header .note").last).to_contain_text("made with <b>other</b>; this page runs memory")


def test_nothing_serious_in_the_way_of_anybody(visit: Visit) -> None:
    page = visit(link="temperature=0")
    wait_state(page, "done", 100)
    for part in ("advanced", "reading", "take", "pictures"):
        page.click(f"#{part} > button")
    expect(page.locator("#score-map .plot[data-ready=true]")).to_have_count(2)
    page.click("#own-text textarea")
    page.fill("#own-text textarea", "A fox sees nine dogs.")
    page.click("#read")
    page.click("#compare")
    expect(page.locator("#read-out [data-state=done]")).to_be_attached()
    expect(page.locator("#comparison [data-state=done]")).to_be_attached()
    seen_in_all_looks(
        page, "#advanced label", "#seed input", "#own-text textarea", "#efficiency table", "#pictures figcaption"
    )
    nothing_in_anybodys_way(page)


def test_the_plot_against_megabytes_and_speed(page: Page) -> None:
    expect(page.locator("#chart .plot")).to_have_attribute("data-axis", "bytes")
    page.select_option("[data-axis]", "ratio")
    expect(page.locator("#chart .plot")).to_have_attribute("data-axis", "ratio")
    ends = "(() => { const { x, meta } = document.querySelector('#chart .plot').data[0]; return [...x, ...meta] })()"
    percents = page.evaluate(ends)
    page.select_option("[data-axis]", "bytes")
    expect(page.locator("#chart .plot")).to_have_attribute("data-axis", "bytes")
    megabytes = page.evaluate(ends)
    count = len(percents) // 2
    assert megabytes[count:] == percents[count:] and megabytes[:count] != percents[:count]
    assert abs(max(megabytes[:count]) - float(readout(page, "megabytes").split()[0])) <= 1
    assert 2 <= page.locator("#chart .xtick").count() < 20  # the step of the axis before is not kept
    own = "(t) => t.customdata === undefined || t.x.every((x, i) => x === t.customdata[i][0])"
    assert page.evaluate(f"document.querySelector('#chart .plot').data.every({own})")  # each point at its own bytes
    x, y = page.evaluate(
        """() => {
          const plot = document.querySelector("#chart .plot"), { xaxis, yaxis } = plot._fullLayout;
          const { x, y } = plot.data[0], box = plot.getBoundingClientRect();
          return [box.x + xaxis._offset + xaxis.d2p(x[0]), box.y + yaxis._offset + yaxis.d2p(y[0])];
        }"""
    )
    page.mouse.move(x, y)
    expect(page.locator("#chart .hoverlayer")).to_contain_text(f"{percents[0]:.0f} % · ")
    axes = ("#chart .xtitle", "#chart .ytitle", "#chart .xtick text", "#chart .entries .term")
    seen_in_all_looks(page, *axes, "#chart [data-axis]", "#chart [data-save]", "#chart .status")
    page.select_option("[data-axis]", "speed")
    expect(page.locator("#chart .plot")).to_have_attribute("data-axis", "speed")  # once it is measured
    expect(page.locator("#chart .status")).to_contain_text("Speed measured on this machine")
    within = """() => {
      const { data, layout } = document.querySelector("#chart .plot"), [low, high] = layout.xaxis.range;
      return data.flatMap(({ x }) => x).every((value) => value === null || (value >= low && value <= high));
    }"""
    assert page.evaluate(within)
    named = "document.querySelector('#chart .plot').layout.annotations.map(({ text }) => text)"
    assert {"40 %", "100 %"} <= set(page.evaluate(named))
    page.select_option("[data-axis]", "ratio")
    page.wait_for_function(f"{named}.length === 0")
    expect(page.locator("#chart .plot")).to_have_attribute("data-axis", "ratio")
    assert page.evaluate(ends) == percents
