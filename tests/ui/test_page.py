"""The page in a real browser: what a visitor does with the slider, and what a hostile one tries."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.completions import EXAMPLES
from acip_core.artifacts.loading import open_model
from acip_core.figures.size_table import plan_at
from acip_core.generation.engine import Engine, SamplingConfig
from acip_core.generation.tokens import Token
from acip_core.model.base_model import DEFAULT_MODEL
from acip_core.progress import finish
from acip_core.ui.handlers import Handlers
from acip_core.ui.server import PageServer
from tests.support.visitor import (
    SLIDER,
    drag,
    free_port,
    opened,
    readout,
    served,
    shown,
    text,
    tiny_loaded,
    wait_state,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]
SLOW, VERY_SLOW = 0.02, 0.2  # seconds a pass of the slowed model takes
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Handlers]]:
    with served(tiny_loaded("A note for <b>people</b>.")) as (address, handlers):
        handlers.model.engine._ends = frozenset()  # a random model ends its text at random
        handlers.model.windows = lambda corpus: torch.randint(
            3, 128, (16, 24), generator=torch.Generator().manual_seed(1)
        )
        yield address, handlers


@pytest.fixture
def engine(server: tuple[str, Handlers]) -> Engine:
    return server[1].model.engine


@pytest.fixture
def slow(engine: Engine, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A model slow enough to be caught in the middle of a text."""
    forward = engine.forward

    def slowed(*arguments, **options):
        time.sleep(getattr(request, "param", SLOW))
        return forward(*arguments, **options)

    monkeypatch.setattr(engine, "forward", slowed)


@pytest.fixture
def visit(browser: Browser, server: tuple[str, Handlers]) -> Iterator[Visit]:
    """Opens the page for a new visitor, or in another tab of a visitor's browser.

    Afterwards there must have been no console error and no request to anywhere else.
    """
    wrong: list[str] = []
    contexts: list[BrowserContext] = []

    def visited(context: BrowserContext | None = None, link: str = "") -> Page:
        contexts.append(context or browser.new_context())
        return opened(contexts[-1], server[0], wrong, link)

    yield visited
    for context in contexts:
        context.close()
    assert wrong == []


@cache
def expected(engine: Engine, percent: int, prompt: str = EXAMPLES[0]) -> str:
    plan = plan_at(engine.elastic.planner, percent)[1]
    return "".join(token.text for token in engine.stream(prompt, plan, SamplingConfig(max_new_tokens=96)))


def test_opens_with_a_completion_and_all_figures(visit: Visit, engine: Engine) -> None:
    page = visit()
    wait_state(page, "done", 100)
    assert text(page) == expected(engine, 100)
    assert readout(page, "ratio") == "1.000" and readout(page, "saved") == "0.0 %"
    assert readout(page, "ppl-c4") == "30.0" and readout(page, "ppl-wikipedia") == "20.0"
    expect(page.locator("#header .note")).to_have_text("A note for <b>people</b>.")
    assert page.evaluate("Object.keys(window).filter((name) => /acip/i.test(name))") == []


def test_readouts_change_within_the_event_itself(visit: Visit) -> None:
    shown = visit().evaluate(
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


def test_keyboard(visit: Visit, engine: Engine) -> None:
    page = visit()
    page.focus(SLIDER)
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    wait_state(page, "done", 95)
    assert float(readout(page, "ratio")) == pytest.approx(0.95, abs=0.01)
    assert text(page) == expected(engine, 95)
    assert page.locator("#chart .plot").get_attribute("data-percent") == "95"


def test_dragging_shows_the_texts_of_other_sizes(visit: Visit, engine: Engine) -> None:
    page = visit()
    page.wait_for_function("() => document.querySelectorAll('#readouts .ready i').length >= 14")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    drag(page, 60)
    at = page.locator("#completion [data-state=ready]")
    near = int(at.get_attribute("data-percent") or 0)
    assert abs(near - int(float(page.locator(SLIDER).input_value()))) <= 3 and near % 5 == 0
    assert text(page) == expected(engine, near) and asked == []
    page.mouse.up()
    wait_state(page, "done")
    page.fill("#prompt textarea", "Another prompt")
    expect(page.locator("#readouts .ready i")).to_have_count(0)


def test_mouse_drag_updates_without_asking_and_restarts_on_release(visit: Visit, engine: Engine) -> None:
    page = visit()
    wait_state(page, "done", 100)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
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


@pytest.mark.usefixtures("slow")
def test_rapid_dragging_shows_only_the_newest_size(visit: Visit, server: tuple[str, Handlers]) -> None:
    page = visit()
    for percent in (90, 40, 70, 35, 80):
        drag(page, percent, steps=3)
        with page.expect_request("**/queue/join*"):
            page.mouse.up()
    newest = round(float(page.locator(SLIDER).input_value()))
    wait_state(page, "running", newest)
    page.wait_for_function("document.querySelector('#completion .text').textContent.length > 3")
    assert server[1].visitors.count == 1  # nothing piled up
    whole = expected(server[1].model.engine, newest)
    assert whole.startswith(text(page))
    wait_state(page, "done", newest)
    assert text(page) == whole


def test_on_a_slow_network_the_newest_size_wins(visit: Visit, engine: Engine) -> None:
    page = visit()
    wait_state(page, "done", 100)
    slow = {"offline": False, "latency": 600, "downloadThroughput": 30_000, "uploadThroughput": 30_000}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    for percent in (90, 40, 75):
        assert len(set(drag(page, percent, steps=6))) > 3
        with page.expect_request("**/queue/join*"):
            page.mouse.up()
    newest = round(float(page.locator(SLIDER).input_value()))
    wait_state(page, "done", newest)
    assert text(page) == expected(engine, newest)


@pytest.mark.parametrize("slow", [VERY_SLOW], indirect=True)
@pytest.mark.usefixtures("slow")
def test_stop(visit: Visit, engine: Engine) -> None:
    page = visit()
    page.wait_for_function("document.querySelector('#completion .text').textContent.length > 3")
    page.click("#stop")
    wait_state(page, "stopped")
    shown = text(page)
    assert 0 < len(shown) < 96 and expected(engine, 100).startswith(shown)
    page.click("#run")
    wait_state(page, "running", 100)


def test_measure_fills_in_points(visit: Visit) -> None:
    page = visit()
    page.click("#measure")
    page.wait_for_selector('#chart [data-state="done"]')
    assert page.locator("#chart .plot").get_attribute("data-measured") == "2"
    status = page.locator("#chart p.status").inner_text()
    assert status.startswith("Measured 100 %") and "C4" in status and "Wikipedia" in status and "32 windows" in status


@pytest.mark.usefixtures("slow")
def test_measuring_can_be_stopped(visit: Visit, server: tuple[str, Handlers], monkeypatch: pytest.MonkeyPatch) -> None:
    endless = torch.randint(3, 128, (2000, 24), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(server[1].model, "windows", lambda corpus: endless)
    page = visit()
    page.click("#measure")
    page.wait_for_selector('#chart .plot[data-measured="2"]')
    page.click("#stop-measuring")
    page.wait_for_selector('#chart [data-state="stopped"]')


MARKUP = '<img src=x onerror="window.hacked=1"><b>bold</b><script>window.hacked=2</script>${window.hacked=3}{{1+1}}'


def test_markup_is_shown_as_text(visit: Visit, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "compare", lambda *_, **__: iter([{0: Token(MARKUP, 1, 3, 3, "end")}]))
    page = visit()
    page.fill("#prompt textarea", MARKUP)
    page.click("#run")
    page.wait_for_function("text => document.querySelector('#completion .prompt').textContent === text", arg=MARKUP)
    wait_state(page, "done")
    assert text(page) == MARKUP
    assert page.locator("#completion img, #completion b, #completion script").count() == 0
    assert page.evaluate("window.hacked") is None


def test_odd_prompts_give_text_or_one_sentence(visit: Visit) -> None:
    page = visit()
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
        page.click("#run")
        wait_state(page, "error" if complaint else "done", 100)
        if complaint:
            expect(page.locator("#completion .status")).to_contain_text(complaint)
            expect(page.locator(".toast-body").last).to_contain_text(complaint)
        else:
            assert len(text(page)) > 10


def test_another_setting_or_prompt_starts_over(visit: Visit, engine: Engine) -> None:
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


def test_one_click_is_one_run(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done", 100)
    asked: list[str] = []
    page.on("request", lambda request: "queue/join" in request.url and asked.append(request.url))
    page.fill("#prompt textarea", "Another prompt")
    page.click("#run", delay=150)  # longer than the slider's rest
    page.wait_for_function("document.querySelector('#completion .prompt').textContent === 'Another prompt'")
    wait_state(page, "done", 100)
    page.fill("#prompt textarea", "A third one")
    page.press("#prompt textarea", "Shift+Enter")
    page.wait_for_function("document.querySelector('#completion .prompt').textContent === 'A third one'")
    page.locator("#prompt textarea").blur()
    wait_state(page, "done", 100)
    page.fill("#prompt textarea", "A fourth one")
    page.press("#prompt textarea", "Tab")
    page.wait_for_function("document.querySelector('#completion .prompt').textContent === 'A fourth one'")
    assert len(asked) == 3


def test_settings_out_of_range_are_refused_by_name(visit: Visit) -> None:
    page = visit()
    page.click("#advanced button")
    page.click("#seed input")  # waits for two frames; until then Gradio writes initial values into an opened part
    page.fill("#seed input", "-5")
    page.click("#run")
    wait_state(page, "error")
    expect(page.locator("#completion .status")).to_contain_text("seed")


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("tabs", [False, True], ids=["another visitor", "another tab"])
def test_others_are_answered_while_one_generates(visit: Visit, engine: Engine, tabs: bool) -> None:
    first = visit()
    second = visit(first.context if tabs else None)
    first.click("#run")
    wait_state(first, "running", 100)
    assert len(set(drag(second, 50))) > 8
    second.mouse.up()
    percent = round(float(second.locator(SLIDER).input_value()))
    wait_state(second, "done", percent)
    wait_state(first, "done", 100)
    assert (text(first), text(second)) == (expected(engine, 100), expected(engine, percent))


@pytest.mark.usefixtures("slow")
def test_closing_the_tab_stops_its_run(visit: Visit, server: tuple[str, Handlers]) -> None:
    page = visit()
    page.click("#run")
    wait_state(page, "running")
    assert server[1].visitors.count == 1
    page.close()
    deadline = time.monotonic() + 30
    while server[1].visitors.count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server[1].visitors.count == 0


def test_a_server_that_stops_in_an_orderly_way_is_missed(browser: Browser) -> None:
    port = free_port()
    with PageServer("127.0.0.1", port) as server:
        handlers = shown(server, tiny_loaded())
        handlers.model.engine._ends, forward = frozenset(), handlers.model.engine.forward
        handlers.model.engine.forward = lambda *rest, **options: (time.sleep(10 * SLOW), forward(*rest, **options))[1]
        page = opened(browser.new_context(), server.address, [])
        page.wait_for_function("document.querySelector('#completion .text').textContent.length > 3")
        page.fill("#prompt textarea", "Another prompt")
    expect(page.locator("#header .note")).to_contain_text("The server is gone")
    with PageServer("127.0.0.1", port) as server:
        shown(server, tiny_loaded())
        expect(page.locator("#header .note")).to_contain_text("connected again")
        wait_state(page, "done", 100)
        assert page.input_value("#prompt textarea") == "Another prompt"
        page.context.close()


def test_without_curves_and_with_adapters_that_leave_no_room_for_30_percent(browser: Browser) -> None:
    wrong: list[str] = []
    with served(tiny_loaded(adapter_rank=7, curves=False)) as (address, _):
        page = opened(browser.new_context(), address, wrong)
        low = int(page.locator(SLIDER).get_attribute("min") or 0)
        assert low > 30
        page.focus(SLIDER)
        page.keyboard.press("Home")
        wait_state(page, "done", low)
        assert float(readout(page, "ratio")) == pytest.approx(low / 100, abs=0.02)
        page.context.close()
    assert wrong == []


@pytest.mark.real
def test_the_default_model(browser: Browser, default_gguf: Path) -> None:
    assert default_artifact(DEFAULT_MODEL).is_dir()
    wrong: list[str] = []
    with served(finish(open_model())) as (address, handlers):
        page = opened(browser.new_context(), address, wrong)
        page.wait_for_function("document.querySelector('#completion .text').textContent.includes('Berlin')")
        drag(page, 60)
        page.mouse.up()
        percent = round(float(page.locator(SLIDER).input_value()))
        wait_state(page, "done", percent)
        assert len(text(page).split()) > 5
        assert text(page) == expected(handlers.model.engine, percent)
        page.context.close()
    assert wrong == []


def test_sizes_side_by_side(visit: Visit) -> None:
    page = visit()
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


def test_the_plot_can_be_saved_and_clicked(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done")
    page.click("#stop")
    page.wait_for_selector('#chart .plot[data-ready="true"]')
    with page.expect_download() as table:
        page.click('[data-save="csv"]')
    head, *lines = table.value.path().read_text(encoding="utf-8").splitlines()
    assert head == "series,size in %,MB,perplexity" and len(lines) > 4
    assert {line.split(",")[0] for line in lines} >= {'"C4"', '"Wikipedia"'}
    assert all(float(line.rsplit(",", 1)[1]) > 0 for line in lines)
    with page.expect_download() as image:
        page.click('[data-save="png"]')
    assert image.value.path().read_bytes().startswith(b"\x89PNG")
    at = page.evaluate(
        """() => {
          const plot = document.querySelector("#chart .plot"), { xaxis, yaxis } = plot._fullLayout;
          const trace = plot.data[0], box = plot.getBoundingClientRect(), i = 0;
          return { x: box.x + xaxis._offset + xaxis.d2p(trace.x[i]), y: box.y + yaxis._offset + yaxis.d2p(trace.y[i]),
                   percent: String(Math.round(trace.x[i])) };
        }"""
    )
    page.mouse.move(at["x"], at["y"])
    page.mouse.click(at["x"], at["y"])
    page.wait_for_function("p => document.querySelector('#size input[type=number]').value === p", arg=at["percent"])


def test_a_target_moves_the_slider_and_follows_it(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done")
    page.click("#stop")
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


def test_a_shared_link_restores_the_screen(visit: Visit) -> None:
    page = visit()
    page.locator("#prompt textarea").fill("Über <b>all</b> & more?")
    page.click("#advanced button")
    page.click("#seed input")
    page.fill("#seed input", "7")
    drag(page, 63)
    page.mouse.up()
    wait_state(page, "done", 63)
    written, address = text(page), page.url
    assert "size=63" in address and "seed=7" in address
    other = visit(link=address.partition("#")[2])
    wait_state(other, "done", 63)
    assert other.locator("#prompt textarea").input_value() == "Über <b>all</b> & more?"
    assert other.locator(SLIDER).input_value() == "63" and readout(other, "ratio") == readout(page, "ratio")
    assert text(other) == written
    other.click("#advanced button")
    other.click("#seed input")
    expect(other.locator("#seed input")).to_have_value("7")
    other.evaluate("location.hash = 'size=80'")  # another link pasted into the same tab
    wait_state(other, "done", 80)


def test_the_address_keeps_what_stands_before_the_link(browser: Browser, server: tuple[str, Handlers]) -> None:
    page = browser.new_page()
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
    ],
)
def test_nonsense_in_a_link(visit: Visit, link: str, percent: int | None, state: str) -> None:
    page = visit(link=link)
    wait_state(page, state, percent or int(page.locator(SLIDER).get_attribute("min") or 0))
    expect(page.locator("#completion .status")).not_to_contain_text("wrong")


def test_a_link_from_another_model_says_so(visit: Visit) -> None:
    page = visit(link="model=<b>other</b>&size=70")
    expect(page.locator("#header .note").last).to_contain_text("made with <b>other</b>; this page runs memory")


def test_visited_sizes_stay(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done", 100)
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
    page.keyboard.press("Control+z")
    shown(40)
    page.keyboard.press("Control+z")
    shown(100)
    page.keyboard.press("Control+Shift+z")
    shown(40)
    chips.first.click()
    shown(100)
    page.locator("#prompt textarea").press_sequentially("t")  # is a letter there
    assert page.locator("#prompt textarea").input_value().endswith("t")
    page.click("#visits [data-do=clear]")
    expect(chips).to_have_count(1)


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


def test_a_text_of_ones_own(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done", 100)
    page.click("#reading > button")
    page.click("#own-text textarea")
    own = "A fox <img src=x onerror=alert(1)> & nine dogs, 🙂 Łódź.\n" * 3
    drop(page, "own.md", own.encode())
    expect(page.locator("#own-text textarea")).to_have_value(own)
    page.click("#read")
    expect(page.locator("#read-out [data-state=done]")).to_be_attached()
    passage = page.locator("#read-out pre")
    assert passage.text_content() == own and passage.locator("img").count() == 0
    expect(page.locator("#read-out .plot")).to_have_attribute("data-points", "15")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
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
def test_what_is_dropped_and_no_text(visit: Visit, name: str, content: bytes, times: int, message: str) -> None:
    page = visit()
    page.click("#reading > button")
    page.click("#own-text textarea")
    page.fill("#own-text textarea", "typed before")
    drop(page, name, content, times)
    expect(page.locator("#read-out .status")).to_have_text(message)
    assert page.input_value("#own-text textarea") == "typed before"


def test_inside_the_cut_moves_with_the_slider(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done", 100)
    page.click("#pictures > button")
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


def test_the_plot_against_megabytes_and_speed(visit: Visit) -> None:
    page = visit()
    wait_state(page, "done", 100)
    ends = "(() => { const { x, meta } = document.querySelector('#chart .plot').data[0]; return [...x, ...meta] })()"
    percents = page.evaluate(ends)
    page.select_option("[data-axis]", "bytes")
    expect(page.locator("#chart .plot")).to_have_attribute("data-axis", "bytes")
    megabytes = page.evaluate(ends)
    count = len(percents) // 2
    assert megabytes[count:] == percents[count:] and megabytes[:count] != percents[:count]
    assert abs(max(megabytes[:count]) - float(readout(page, "megabytes").split()[0])) <= 1
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
    page.select_option("[data-axis]", "speed")
    expect(page.locator("#chart .plot")).to_have_attribute("data-axis", "speed")
    expect(page.locator("#chart .status")).to_contain_text("Speed measured on this machine")
    page.select_option("[data-axis]", "ratio")
    expect(page.locator("#chart .plot")).to_have_attribute("data-axis", "ratio")
    assert page.evaluate(ends) == percents


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_nothing_serious_in_the_way_of_anybody(visit: Visit, width: int, scheme: str) -> None:
    page = visit(link="temperature=0")
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 900})
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
    assert page.evaluate("document.documentElement.scrollWidth") == width
    found = Axe().run(page).response["violations"]
    serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []


def test_page_keys_move_by_ten(visit: Visit) -> None:
    page = visit()
    page.focus(SLIDER)
    for key, percent in [("PageDown", "90"), ("ArrowLeft", "89"), ("PageDown", "79"), ("PageUp", "89"), ("Home", "30")]:
        page.keyboard.press(key)
        assert page.locator(SLIDER).input_value() == percent
