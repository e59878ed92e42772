"""Serving the page of a tiny model, and what a visitor's hands and eyes do there."""

from __future__ import annotations

import gc
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, ViewportSize

from acip_core.artifacts.completions import EXAMPLES, NEW_TOKENS, REPETITION_PENALTY
from acip_core.artifacts.loading import Loaded
from acip_core.generation.engine import Engine, SamplingConfig
from acip_core.model.elastic_model import build_elastic
from acip_core.model.tracks import plan_at
from acip_core.progress import finish
from acip_core.ui.gradio_import import gr
from acip_core.ui.handlers import Handlers
from acip_core.ui.launch import MountedPage
from acip_core.ui.model_choices import model_choices
from acip_core.ui.page import build_page
from acip_core.ui.server import PageServer
from tests.support import patient
from tests.support.browser import PATIENCE
from tests.support.ports import free_port
from tests.support.tiny import tiny_artifact, tiny_base, tiny_factors

ROOT = Path(__file__).parents[2]
SLOW = 0.02  # seconds that a pass of the slowed model takes
HELD = 3600  # the same for what is to stand still until the test lets it go on
VERY_SLOW = 0.6  # the same for what is looked at in the middle of a text, on a busy machine too
MARKUP = '<img src=x onerror="window.hacked=1"><b>bold</b><script>window.hacked=2</script>${window.hacked=3}{{1+1}}'
Visit = Callable[..., Page]
_PORTS: list[int] = []  # of pages that are closed
SLIDER = "#size input[type=range]"
DESKTOP: ViewportSize = {"width": 1280, "height": 900}


# A page that is left in the middle of a run closes its stream, which Gradio then reports as broken.
_LEAVING = 'addEventListener("beforeunload", () => { console.error = () => {}; });'


@dataclass
class Slowness:
    """How many seconds a pass of the slowed model takes from now on."""

    seconds: float = SLOW


def tiny_loaded(note: str = "", adapter_rank: int = 2, curves: bool = True) -> Loaded:
    base = tiny_base()
    artifact = tiny_artifact(base, adapter_rank, curves)
    elastic = finish(build_elastic(base, tiny_factors(base), artifact.scores, artifact.adapters))
    return Loaded(elastic, artifact, note)


@contextmanager
def served(loaded: Loaded, models: tuple[str, ...] = ()) -> Iterator[tuple[str, Handlers]]:
    """The page's address and server side.

    Args:
        models: to choose from, the one that is open first.
    """
    with page_port() as port, PageServer("127.0.0.1", port) as server:
        yield server.address, shown(server, loaded, models)


def shown(server: PageServer, loaded: Loaded, models: tuple[str, ...] = ()) -> Handlers:
    """The server side of a model's page that the server shows from now on; `models` as `served`."""
    choices = model_choices(models) if models else None
    blocks, handlers = build_page(loaded, choices, choices.models[0] if choices else None)
    server.show(MountedPage(blocks, handlers, server.hosts))
    return handlers


def opened(context: BrowserContext, address: str, wrong: list[str], link: str = "") -> Page:
    """A tab with the page, ready to use; console errors and requests to other hosts are added to `wrong`.

    Args:
        link: what follows the # in the address.
    """
    page = context.new_page()
    page.set_viewport_size(DESKTOP)
    page.set_default_timeout(PATIENCE)
    page.add_init_script(_LEAVING)
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: request.url.startswith((address, "data:", "blob:")) or wrong.append(request.url))
    page.goto(f"{address}#{link}" if link else address)
    page.wait_for_selector(SLIDER)
    page.wait_for_selector("#chart .plot[data-ready=true]")
    page.wait_for_selector("#completion [data-state]")  # its own first run has begun and cannot come later
    return page


def requests_of(page: Page) -> list[str]:
    """Addresses that the page asks for from now on; that it looks every 3 s whether its server is there is none."""
    asked: list[str] = []
    page.on("request", lambda request: request.url.endswith("/acip/state") or asked.append(request.url))
    return asked


def readout(page: Page, key: str) -> str:
    return page.locator(f'#readouts [data-key="{key}"]').text_content() or ""


def figure(page: Page, name: str) -> str:
    """One of the three figures under the slider: size, worse or same."""
    return page.locator(f'#readouts [data-figure="{name}"] dd').text_content() or ""


def text(page: Page) -> str:
    return page.locator("#completion .text").text_content() or ""


def original(page: Page) -> str:
    return page.locator("#completion .said").text_content() or ""


def wait_state(page: Page, state: str, percent: int | None = None) -> None:
    at = "" if percent is None else f'[data-percent="{percent}"]'
    page.wait_for_selector(f'#completion [data-state="{state}"]{at}')


def at_rest(page: Page) -> None:
    """The first prompt at 100 %, with its text; nothing lies over the page, and what Details open is closed."""
    page.mouse.up()  # where a test left the thumb held
    page.mouse.move(0, 0)
    page.keyboard.press("Escape")
    close_details(page)
    page.fill("#prompt textarea", EXAMPLES[0])
    page.focus(SLIDER)
    page.keyboard.press("End")
    page.click("#run")
    page.wait_for_function(
        "text => document.querySelector('#completion .prompt').textContent === text", arg=EXAMPLES[0]
    )
    wait_state(page, "done", 100)


def close_details(page: Page) -> None:
    """Those below the three figures, where they are open."""
    if page.locator("#readouts details[open]").count():
        page.click("#readouts summary")


def go_to(page: Page, percent: int) -> None:
    """A size in tens, with its text, by the keyboard."""
    page.focus(SLIDER)
    page.keyboard.press("End")
    for _ in range(100, percent, -10):
        page.keyboard.press("PageDown")
    wait_state(page, "done", percent)


def forget_visits(page: Page) -> None:
    """All but the last; where there is one alone, the button is off."""
    button = page.locator("#visits [data-do=clear]")
    if button.is_enabled():
        button.click()


def expand(page: Page, part: str) -> None:
    """Open a part of the page that is closed at first."""
    if not page.locator(f"#{part} > button.open").count():
        page.click(f"#{part} > button")


@contextmanager
def says(page: Page, part: str, words: str) -> Iterator[None]:
    """What is done here makes a part of the page say the words, for however short a time."""
    page.evaluate(
        """([part, words]) => {
            window.said = false;
            const look = () => { window.said ||= document.querySelector(part)?.textContent.includes(words); };
            window.listener?.disconnect();  // it listens for other words
            window.listener = new MutationObserver(look);
            window.listener.observe(document, { subtree: true, childList: true, characterData: true });
        }""",
        [part, words],
    )
    yield
    page.wait_for_function("window.said")


@cache
def expected(engine: Engine, percent: int, prompt: str = EXAMPLES[0]) -> str:
    """What the page writes at a size."""
    plan = plan_at(engine.elastic.planner, percent)[1]
    sampling = SamplingConfig(max_new_tokens=NEW_TOKENS, repetition_penalty=REPETITION_PENALTY)
    return "".join(token.text for token in engine.stream(prompt, plan, sampling))


def drag(page: Page, percent: float, steps: int = 12) -> list[str]:
    """Drag the thumb there without letting go; returns the megabytes shown on the way."""
    page.locator(SLIDER).scroll_into_view_if_needed()
    box = page.locator(SLIDER).bounding_box()
    assert box is not None
    low, high = (float(page.locator(SLIDER).get_attribute(end) or 0) for end in ("min", "max"))
    value = float(page.locator(SLIDER).input_value())
    thumb = 26

    def x(at: float) -> float:
        return box["x"] + thumb / 2 + (box["width"] - thumb) * (at - low) / (high - low)

    y = box["y"] + box["height"] / 2
    page.mouse.move(x(value), y)
    page.mouse.down()
    seen = []
    for step in range(1, steps + 1):
        page.mouse.move(x(value + (percent - value) * step / steps), y)
        seen.append(readout(page, "megabytes") + readout(page, "saved"))
    return seen


@contextmanager
def page_port() -> Iterator[int]:
    """A free port, that of a former page where there is one: the browser has compiled what comes from that address."""
    port = free_port(_PORTS.pop() if _PORTS else 0)
    try:
        yield port
    finally:
        _PORTS.append(port)


@contextmanager
def running(folders: tuple[Path, Path], port: int, *options: str) -> Iterator[ForkServerProcess]:
    """`app.py` with a model and its artifact, in a process of its own.

    It is forked from one that has imported everything, which takes 7 s of a start; `test_app` has a start from nothing.
    """
    starter = get_context("forkserver")
    starter.set_forkserver_preload([__name__])
    command = ["app.py", str(folders[0]), "--artifact", str(folders[1]), "--port", str(port), *options]
    process = starter.Process(target=_run, args=(command, dict(os.environ)))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _run(command: list[str], environment: dict[str, str]) -> None:
    """A Python program of this repository as the shell starts it, with nothing of it shown."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1), os.dup2(nothing, 2)
    gc.freeze()  # what was imported is no garbage, and looking through it would copy it
    os.environ |= environment
    os.chdir(ROOT)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def wait_for(port: int) -> None:
    """Until the page answers there."""

    def answers() -> bool:
        with suppress(httpx.HTTPError):
            return client.get(f"http://127.0.0.1:{port}/").status_code == 200
        return False

    with patient.Client() as client:  # one for all, for each reads the system's certificates
        wait_until(answers)


def wait_until(true: Callable[[], bool]) -> None:
    """For what the page does not show."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not true():
        if time.monotonic() > deadline:
            pytest.fail("it did not come")
        time.sleep(0.05)


REQUEST = gr.Request(session_hash="somebody")


SETTINGS = (0.0, 1.0, 0, 16, False)  # temperature, top-p, seed, length, chat
