"""A browser that has a page of before, or whose server changes while it loads: nothing is shown of another model."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from acip_core.artifacts.loading import Loaded
from acip_core.model.base_model import BaseModel
from acip_core.model.elastic_model import build_elastic
from acip_core.model.target_layers import linearize
from acip_core.progress import finish
from acip_core.ui.handlers import Handlers
from acip_core.ui.server import PageServer
from tests.support import patient
from tests.support.browser import Newcomer
from tests.support.tiny import tiny_artifact, tiny_factors, tiny_model, tiny_tokenizer
from tests.support.visitor import (
    SLIDER,
    VERY_SLOW,
    Slowness,
    expand,
    expected,
    opened,
    page_port,
    shown,
    text,
    tiny_loaded,
    wait_state,
)

pytestmark = [pytest.mark.browser, pytest.mark.long]


@pytest.fixture
def host() -> Iterator[PageServer]:
    with page_port() as port, PageServer("127.0.0.1", port) as host:
        yield host


def show(server: PageServer, loaded: Loaded) -> Handlers:
    handlers = shown(server, loaded)
    handlers.model.engine.ends = frozenset()
    return handlers


def another_model() -> Loaded:
    model = tiny_model("llama", 1)
    linearize(model)
    base = BaseModel(model, tiny_tokenizer(), "another", "another")
    artifact = tiny_artifact(base, 2, True)
    return Loaded(finish(build_elastic(base, tiny_factors(base), artifact.scores, artifact.adapters)), artifact, "")


def drag_on(page: Page) -> None:
    page.focus(SLIDER)
    page.keyboard.press("PageDown")


def open_pictures(page: Page) -> None:
    expand(page, "pictures")


def export(page: Page) -> None:
    expand(page, "take")
    page.click("#export")


@pytest.mark.parametrize("act", [drag_on, open_pictures, export])
def test_an_idle_page_shows_nothing_of_another_model(host: PageServer, newcomer: Newcomer, act) -> None:
    show(host, tiny_loaded())
    page = opened(newcomer(), host.address, [], "size=70&mode=directions")
    wait_state(page, "done", 70)
    texts: list[str] = []
    page.expose_function("wrote", lambda written: texts.append(written))
    page.evaluate(
        """() => {
            window.isFormer = true;
            const pane = document.querySelector("#completion .cut pre");
            const tell = () => window.isFormer && window.wrote(pane.textContent);
            new MutationObserver(tell).observe(pane, { subtree: true, childList: true, characterData: true });
        }"""
    )
    host.withdraw()
    handlers = show(host, another_model())
    act(page)
    page.wait_for_function("!window.isFormer && document.querySelector('#completion [data-state=done]')")
    size = int(page.locator("#completion [data-state=done]").get_attribute("data-percent") or 0)
    assert text(page) == expected(handlers.model.engine, size)
    assert not any(expected(handlers.model.engine, size) in shown for shown in texts)
    assert page.evaluate("JSON.parse(document.querySelector('#acip-data').textContent).version") == handlers.version
    page.close()


def test_what_is_asked_after_the_server_cut_a_stream_is_not_waited_for(host: PageServer, newcomer: Newcomer) -> None:
    engine, slowness = show(host, tiny_loaded()).model.engine, Slowness()
    forward = engine.forward

    def slowed(*arguments, **options):
        time.sleep(slowness.seconds)
        return forward(*arguments, **options)

    engine.forward = slowed
    page = opened(newcomer(), host.address, [], "size=70&mode=directions")
    wait_state(page, "done", 70)
    slowness.seconds = VERY_SLOW  # texts of other sizes are still to come
    page.evaluate("window.isFormer = true")
    host.withdraw()
    show(host, another_model())
    export(page)
    page.wait_for_function("!window.isFormer && document.querySelector('#completion [data-state=done]')")
    expect(page.locator("#header .note", has_text="connected again")).to_be_visible()
    page.close()


def test_a_first_paint_whose_server_changes_gives_way_to_the_next_page(host: PageServer, newcomer: Newcomer) -> None:
    show(host, tiny_loaded())
    page = newcomer(locale="en-GB").new_page()  # in a context of its own: a clock is that of all its tabs
    page.clock.install()
    page.route("**/acip/js/**", lambda route: route.abort())  # as a server does that has gone meanwhile
    page.goto(host.address)
    late = page.locator(".first .late")
    expect(late).to_have_text("")
    page.clock.run_for(10_000)
    expect(late).to_contain_text("takes long")
    page.unroute_all()  # before there is a model to reload for: the clock runs on its own too
    host.withdraw()
    page.clock.run_for(4_000)
    expect(late).to_contain_text("being loaded")
    handlers = show(host, another_model())
    page.wait_for_function(
        "version => JSON.parse(document.querySelector('#acip-data').textContent).version === version",
        arg=handlers.version,
    )
    wait_state(page, "done", 100)
    expect(page.locator(".first")).to_have_count(0)
    page.close()


def test_the_page_opens_where_it_is_not_told_what_can_be_spent(host: PageServer, newcomer: Newcomer) -> None:
    show(host, tiny_loaded())
    page = newcomer().new_page()
    page.add_init_script(
        "const wait = AbortSignal.timeout; AbortSignal.timeout = (time) => wait.call(AbortSignal, time / 20);"
    )
    page.route("**/acip/modes", lambda route: None)  # never answered
    page.goto(host.address)
    wait_state(page, "done", 100)
    expect(page.locator(".first")).to_have_count(0)
    page.close()


def test_every_answer_names_its_page_and_invented_pictures_are_kept_nowhere(host: PageServer) -> None:
    handlers = show(host, tiny_loaded())
    for path in ("", "acip/modes", "acip/pictures/method"):
        assert patient.get(host.address + path).headers["acip-page"] == handlers.version
    for name in ("history.x", "method.", "history.", "bytes.", "score-map.x"):
        assert patient.get(f"{host.address}acip/pictures/{name}").status_code == 404, name
