"""Before and after in a real browser: the original's text beside that of the slider's size."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

import pytest
import torch
from playwright.sync_api import Page, expect

from acip_core.artifacts.completions import EXAMPLES, NEW_TOKENS, REPETITION_PENALTY, Completions
from acip_core.generation import engine as generate
from acip_core.generation.cache import TextCache
from acip_core.generation.engine import Engine
from acip_core.generation.sampling import SamplingConfig
from acip_core.model.elastic_model import BatchPlan
from acip_core.model.size_planner import Plan
from acip_core.ui import sweep
from acip_core.ui.handlers import Handlers
from acip_core.ui.sweep import key_of
from tests.support.browser import Newcomer
from tests.support.looks import looks, seen_in_all_looks
from tests.support.visitor import (
    SLIDER,
    SLOW,
    VERY_SLOW,
    Slowness,
    Visit,
    drag,
    expected,
    forget_visits,
    go_to,
    original,
    served,
    text,
    tiny_loaded,
    wait_state,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]
OWN = "Another prompt"  # at 60 % and 100 % the tiny model writes different texts of it


def watch(page: Page) -> None:
    """Keep every text that either pane shows from now on."""
    page.evaluate(
        """() => {
          window.seen = { text: [], said: [] };
          for (const [name, found] of Object.entries(window.seen)) {
            const place = document.querySelector(`#completion .${name}`);
            const note = () => found.push(place.textContent);
            new MutationObserver(note).observe(place, { childList: true, characterData: true, subtree: true });
            note();
          }
        }"""
    )


def ask(page: Page, prompt: str) -> None:
    """Have a prompt written and wait for its text."""
    page.fill("#prompt textarea", prompt)
    page.click("#run")
    page.wait_for_function("text => document.querySelector('#completion .prompt').textContent === text", arg=prompt)
    wait_state(page, "done", 60)


def boxes(page: Page, selectors: str) -> list[dict[str, float]]:
    """Where all that they find stands, in the document's order."""
    return page.evaluate(
        "all => [...document.querySelectorAll(all)].map(each => each.getBoundingClientRect().toJSON())", selectors
    )


def seen(page: Page, name: str = "text") -> set[str]:
    return set(page.evaluate(f"window.seen.{name}"))


def test_both_texts_stand_side_by_side_and_what_differs_is_marked(page: Page, engine: Engine) -> None:
    go_to(page, 60)
    ask(page, OWN)
    assert (original(page), text(page)) == (expected(engine, 100, OWN), expected(engine, 60, OWN))
    for look in looks(page):
        boxes = [page.locator(f"#completion {side} pre").bounding_box() for side in (".original", ".cut")]
        left, right = (box for box in boxes if box is not None)
        assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
        assert min(left["width"], right["width"]) > (150 if look[0] == "phone" else 280)
    parts = ("#completion .original pre", "#completion .cut pre", "#completion mark", SLIDER)
    seen_in_all_looks(page, *parts, in_view=True)
    mark = page.locator("#completion .text mark").first
    assert "underline" in mark.evaluate("element => getComputedStyle(element).textDecorationLine")
    expect(page.locator("#completion .cut .note")).to_contain_text("differ")
    page.focus(SLIDER)
    page.keyboard.press("End")
    wait_state(page, "done", 100)
    assert original(page) == text(page) and page.locator("#completion mark").count() == 0


@pytest.mark.usefixtures("slow")
def test_both_are_written_in_step(page: Page, engine: Engine) -> None:
    go_to(page, 60)
    watch(page)
    ask(page, prompt := "Once more")  # nobody has asked it yet
    for name, percent in (("text", 60), ("said", 100)):
        whole, former = expected(engine, percent, prompt), expected(engine, percent)
        written = seen(page, name) - {former}
        assert len(written) > 3 and all(whole.startswith(part) for part in written)


def test_a_known_text_stays_while_it_is_written_again(page: Page, engine: Engine, slow: Slowness) -> None:
    go_to(page, 60)
    watch(page)
    slow.seconds = VERY_SLOW
    page.click("#run")
    expect(page.locator("#completion .status")).to_contain_text("the same so far")
    slow.seconds = SLOW
    wait_state(page, "done", 60)
    expect(page.locator("#completion .status")).to_contain_text("· as before")
    seen_in_all_looks(page, "#completion .status", in_view=True)
    assert seen(page) == {expected(engine, 60)} and seen(page, "said") == {expected(engine, 100)}


@pytest.mark.usefixtures("slow")
def test_another_live_text_takes_the_place_of_the_known_one_once_it_is_complete(
    page: Page, server: tuple[str, Handlers], engine: Engine
) -> None:
    made = "A text of before."
    prompt = "A prompt with texts of before"
    sampling = SamplingConfig(max_new_tokens=NEW_TOKENS, repetition_penalty=REPETITION_PENALTY)
    for percent in (60, 100):
        server[1].model.texts.add(key_of(prompt, sampling, False), percent, made)
    go_to(page, 60)
    watch(page)
    ask(page, prompt)
    expect(page.locator("#completion .status")).to_contain_text("not as before")
    between = {""}  # unless the known text is there with the first answer
    assert seen(page) | between == between | {expected(engine, 60), made, expected(engine, 60, prompt)}
    assert original(page) == made


def test_the_first_paint_has_the_prepared_texts_where_the_page_has_them(newcomer: Newcomer) -> None:
    texts = {100: " the original says so", 60: " the cut says <b>so</b> `${1}`"}
    made = Completions("Prepared & ready", 24, texts, "directions", 1.2)
    loaded = replace(tiny_loaded("A note."), completions=(made,))
    first_paint = ".first .note, .first .model, .first .asked div, .first section, .first pre"
    whole_page = "#header .note, #switch, #prompt textarea, #completion, #completion pre"
    with served(loaded, models=("this one", "another")) as (address, handlers):
        context = newcomer()
        page = context.new_page()
        page.route(re.compile("/acip/js/"), lambda route: route.abort())  # the first paint stays
        page.goto(address)
        first = {width: boxes(page, first_paint) for width, _ in looks(page)}
        page.unroute_all()
        page.route("**/queue/join*", lambda route: None)  # nothing is ever answered
        page.goto(address)
        expect(page.locator("#completion .begin")).to_have_text("Prepared & ready")
        expect(page.locator("#prompt textarea")).to_have_value("Prepared & ready")
        assert (original(page), text(page)) == (texts[100], texts[100])
        for width, _ in looks(page):
            before, after = first[width], boxes(page, whole_page)
            assert [box["x"] for box in before] == pytest.approx([box["x"] for box in after], abs=1)
            slider = boxes(page, "#size-group")[0]["y"]
            if width == "phone":  # where this model's page has no strip between prompt and texts
                assert 0 <= slider - (before[3]["y"] + before[3]["height"]) <= 8
                before, after = before[:3], after[:3]
            assert [box["y"] for box in before] == pytest.approx([box["y"] for box in after], abs=1)
        settled = boxes(page, whole_page)
        page.evaluate("document.querySelectorAll('#examples .gallery-item').forEach((item) => item.replaceChildren())")
        assert boxes(page, whole_page) == settled  # a moment before the examples' texts arrive
        page.close()
        page = context.new_page()
        page.goto(f"{address}#size=60")
        wait_state(page, "done", 60)
        assert "length=24" in page.url and "penalty=1.2" in page.url
        page.close()
        sampling = SamplingConfig(max_new_tokens=24, repetition_penalty=1.2)
        assert handlers.model.texts.known(key_of(made.prompt, sampling, False)) == texts


@pytest.mark.usefixtures("slow")
def test_the_box_stays_at_its_top(page: Page) -> None:
    go_to(page, 60)
    low = page.add_style_tag(content="#completion pre { height: 30px !important; }")
    at_top = "element => element.scrollHeight > element.clientHeight && element.scrollTop === 0"
    for look in looks(page):
        if look[1] == "light":
            ask(page, f"{OWN} {look}")
        for pane in page.locator("#completion pre").all():
            assert pane.evaluate(at_top), look
    low.evaluate("style => style.remove()")


def test_a_neighbours_text_says_whose_it_is(page: Page, engine: Engine) -> None:
    go_to(page, 60)
    ask(page, OWN)
    page.wait_for_function("() => document.querySelectorAll('#readouts .ready i').length >= 14")
    drag(page, 67)
    here = page.input_value(SLIDER)
    near = page.locator("#completion [data-state=ready]").get_attribute("data-percent")
    assert near != here and text(page) == expected(engine, int(near or 0), OWN)
    assert page.locator("#completion .label").text_content() == f"{near} %"
    assert page.locator("#completion .cut .note").text_content() == f"nearest text, for {here} %"
    seen_in_all_looks(page, "#completion .cut .note", "#completion .label", in_view=True)
    page.mouse.up()
    wait_state(page, "done", int(here))
    assert page.locator("#completion .label").text_content() == f"{here} %"


@pytest.mark.parametrize("longest", [1000, 50], ids=["side by side", "one after the other"])
def test_reading_a_long_prompt_tells_how_far_it_is(
    page: Page, server: tuple[str, Handlers], engine: Engine, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    monkeypatch.setattr(generate, "PREFILL_CHUNK", 4)
    monkeypatch.setattr(sweep, "_LONGEST", longest)
    goes_on, full, forward = threading.Event(), engine.elastic.planner.at_ratio(1.0), engine.forward
    held: list[Plan | None] = [None]  # where reading waits: at the full model's, or at the first of any

    def waiting(ids: torch.Tensor, plan: Plan | BatchPlan, cache: TextCache, keep: int = 1) -> torch.Tensor:
        if ids.shape[1] > 1 and cache.get_seq_length() > 0 and held[0] in (None, plan):
            goes_on.wait(60)
        return forward(ids, plan, cache, keep)

    prompt = f"{longest} " + "long words " * 17
    go_to(page, 60)
    bar, status = page.locator("#completion progress"), page.locator("#completion .status")
    expect(bar).to_be_hidden()
    monkeypatch.setattr(engine, "forward", waiting)
    page.fill("#prompt textarea", prompt)
    page.click("#run")
    expect(bar).to_be_visible()
    expect(status).to_contain_text("reading the prompt, ")
    seen_in_all_looks(page, "#completion progress", "#completion .status", in_view=True)
    assert 0 < bar.evaluate("element => element.value") < 1
    visitors, stop = server[1].visitors, server[1].visitors.stop
    monkeypatch.setattr(visitors, "stop", lambda *given: (stop(*given), goes_on.set()))
    page.click("#stop")
    wait_state(page, "stopped", 60)
    expect(bar).to_be_hidden()
    goes_on.clear()
    held[0] = full
    page.click("#run")
    if longest == 50:
        expect(status).to_contain_text("the original: reading the prompt")
        assert text(page) == expected(engine, 60, prompt)
    goes_on.set()
    page.wait_for_function(
        "text => document.querySelector('#completion .said').textContent === text", arg=expected(engine, 100, prompt)
    )
    wait_state(page, "done", 60)
    expect(bar).to_be_hidden()


def test_another_prompt_stands_beside_no_text_of_the_former_one(page: Page, engine: Engine) -> None:
    go_to(page, 60)
    page.route("**/queue/join*", lambda route: None)  # the network is slow
    page.fill("#prompt textarea", OWN)
    page.click("#run")
    expect(page.locator("#completion .status")).to_have_text("starting")
    assert (original(page), text(page)) == ("", "") and page.locator("#completion .label").text_content() == "60 %"
    page.unroute_all()
    ask(page, OWN)
    assert text(page) == expected(engine, 60, OWN)


def test_a_visit_comes_back_with_its_original(page: Page, engine: Engine) -> None:
    go_to(page, 60)
    forget_visits(page)
    ask(page, OWN)
    page.locator("#visits .chips button").first.click()
    expect(page.locator("#completion .begin")).to_have_text(EXAMPLES[0])
    assert (original(page), text(page)) == (expected(engine, 100), expected(engine, 60))


def test_a_repetition_penalty_travels_in_the_link(visit: Visit, engine: Engine) -> None:
    page = visit(link="size=60&penalty=2")
    wait_state(page, "done", 60)
    plan = engine.elastic.planner.at_ratio(0.6)
    sampling = SamplingConfig(max_new_tokens=NEW_TOKENS, repetition_penalty=2.0)
    written = "".join(token.text for token in engine.stream(EXAMPLES[0], plan, sampling))
    assert text(page) == written != expected(engine, 60) and "penalty=2" in page.url


def test_a_loop_is_marked_as_one_and_not_as_likely(visit: Visit) -> None:
    page = visit(link="penalty=1")
    page.set_viewport_size({"width": 390, "height": 844})
    wait_state(page, "done", 100)
    page.click("#compare")
    page.wait_for_selector('#comparison [data-state="done"]')
    column = page.locator("#comparison .column").last
    tokens = column.locator(".text span")
    again = column.locator(".text .again")
    assert again.count() > 0.7 * tokens.count()  # a random model writes one token for ever
    assert column.locator(".text .again.likely").count() == 0
    assert "said before" in (again.first.get_attribute("title") or "")
    expect(column.locator(".agreement")).to_contain_text("said before")
    expect(page.locator("#comparison .legend .again")).to_be_visible()
    snaps = page.locator("#comparison .columns").evaluate("element => getComputedStyle(element).scrollSnapType")
    assert snaps.startswith("x")
    column = "#comparison .column:first-child"
    seen_in_all_looks(page, f"{column} .head", f"{column} pre", f"{column} .agreement", "#comparison .legend span")
