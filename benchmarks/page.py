"""What a visitor waits for, measured within the browser, and what the server needs for it."""

from __future__ import annotations

import tempfile
import time

from playwright.sync_api import Browser, Page

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.reader import read_artifact
from acip_core.model.base_model import DEFAULT_MODEL

from .browser import Server, await_codes, chromium, opened, served
from .figure import Figure, median_of

DRAG = """async () => {
  const slider = document.querySelector("#size input[type=range]"), out = [];
  const shown = document.querySelector('#readouts [data-key="ratio"]');
  for (let value = 99; value >= 40; value--) {
    const before = shown.textContent, began = performance.now();
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    do await new Promise(requestAnimationFrame); while (shown.textContent === before);
    out.push(performance.now() - began);
  }
  return out;
}"""
_RELEASE = r"""async (value) => {
  const slider = document.querySelector("#size input[type=range]");
  const state = document.querySelector("#completion [data-state]"), status = state.querySelector(".status");
  slider.value = value;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  const began = performance.now();
  for (const type of ["change", "pointerup"]) slider.dispatchEvent(new Event(type, { bubbles: true }));
  do await new Promise(requestAnimationFrame);
  while (!/^[\d,]+ token/.test(status.textContent) || state.dataset.percent !== String(value));
  return (performance.now() - began) / 1000;
}"""

_SCRUB = """async () => {
  const slider = document.querySelector("#size input[type=range]"), plot = document.querySelector("#chart .plot");
  const state = document.querySelector("#completion [data-state]"), began = performance.now();
  let frames = 0;
  for (let value = 99; value >= 30; value--, frames++) {
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise(requestAnimationFrame);
    const painted = Math.abs(state.dataset.percent - value) <= 1 && plot.dataset.percent === String(value);
    if (!painted) throw Error(`not painted at ${value}`);
  }
  return 1000 * frames / (performance.now() - began);
}"""
_SHIFTS = """
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
"""
_REVEALED = """
  window.revealed = null;
  const look = () => {
    const text = document.querySelector("#completion .said")?.textContent;
    if (text && !document.querySelector(".first")) window.revealed = performance.now();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
"""
_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
_FIVE = "() => document.querySelectorAll('#readouts .ready i').length >= 5"
_DONE = "() => document.querySelector('#completion [data-state]').dataset.state === 'done'"
_PROMPTS = ("A recipe for bread begins with", "My grandfather told me that", "The moon is far away, but")


def measure_page() -> list[Figure]:
    """Start-up, readout latency, time to the first token, peak memory (Linux)."""
    with tempfile.TemporaryDirectory() as cache, chromium() as browser:
        with served(cache=cache) as server:
            opened(browser, server.address).close()
            first = time.perf_counter() - server.began
            await_codes(server.address)  # they are made beside the page, and only once
        with served(cache=cache) as server:
            page = opened(browser, server.address)
            later = time.perf_counter() - server.began
            page.close()
            await_codes(server.address)
            figures = _opened(browser, server.address)
            figures += _used(opened(browser, server.address, link="size=100&mode=directions"), server)
    return [
        Figure("first start with an empty cache, process to usable page", first, "s", 180),
        Figure("later start", later, "s", 25),
        *figures,
    ]


def _opened(browser: Browser, address: str) -> list[Figure]:
    """What a visitor sees before the page can be used: both texts are in the first paint, then on the page itself."""
    paints, reveals, shifts = [], [], []
    for width, height in [(1440, 900), (390, 844)] * 3:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.add_init_script(_SHIFTS + _REVEALED)
        page.goto(address)
        page.wait_for_selector('#completion [data-state="done"]')
        paints.append(page.evaluate(_PAINTED) / 1000)
        reveals.append(page.evaluate("window.revealed") / 1000)
        shifts.append(page.evaluate("window.shifted"))
        page.close()
    return [
        median_of("first paint, with both texts", paints, "s", 1.0),
        median_of("the page itself in its place, with both texts", reveals, "s", 1.5),
        Figure("layout shifts while the page loads, summed, the worst of six", max(shifts), "", 0.05),
    ]


def _used(page: Page, server: Server) -> list[Figure]:
    """What a visitor notices, and the server's memory afterwards."""
    readouts = page.evaluate(DRAG)  # while the first completion is running
    first_tokens = [page.evaluate(_RELEASE, percent) for percent in (90, 50, 70, 35, 100, 60, 80)]
    frames = [page.evaluate(_SCRUB) for _ in range(5)]
    page.evaluate(_RELEASE, 100)
    fives = [_until(page, prompt, _FIVE) / _until(page, None, _DONE) for prompt in _PROMPTS]
    page.click("#measure")
    page.wait_for_selector('#chart .plot[data-measured="2"]')
    peak = server.memory(peak=True)
    curve = read_artifact(default_artifact(DEFAULT_MODEL)).curves[0]
    point = max(curve.points, key=lambda point: point.ratio)  # the base model
    return [
        median_of("readouts after a slider movement, painted", readouts, "ms", 150),
        Figure("the slowest of these", max(readouts), "ms", 150),
        median_of("first streamed token after release", first_tokens, "s", 1.5),
        median_of("texts, readouts and plot during a drag over texts that are ready", frames, "frames/s", 58, "higher"),
        median_of("first five sizes of a new prompt ÷ one completion at 100%", fives, "×", 2.5),
        Figure("peak memory of the page less 1 GB ÷ base weights", (peak - 1e9) / (4 * point.parameters), "×", 2.2),
    ]


def _until(page: Page, prompt: str | None, reached: str) -> float:
    """Seconds from a click on Complete, for a new prompt or the one before again, until the page is there."""
    if prompt:
        page.fill("#prompt textarea", prompt)
    page.click("#run")
    began = time.perf_counter()
    page.wait_for_function(reached)
    return time.perf_counter() - began
