"""What a visitor waits for, measured within the browser, and what the server needs for it."""

from __future__ import annotations

import tempfile
import time

from playwright.sync_api import Page

from acip_core.artifact import default_artifact, read_artifact
from acip_core.base import DEFAULT_MODEL

from .browser import Server, chromium, opened, served
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
_RELEASE = """async (value) => {
  const slider = document.querySelector("#size input[type=range]");
  const text = document.querySelector("#completion .text");
  slider.value = value;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  const began = performance.now();
  for (const type of ["change", "pointerup"]) slider.dispatchEvent(new Event(type, { bubbles: true }));
  do await new Promise(requestAnimationFrame);
  while (!text.textContent || document.querySelector("#completion [data-state]").dataset.percent !== String(value));
  return (performance.now() - began) / 1000;
}"""


def measure_page() -> list[Figure]:
    """Start-up, readout latency, time to the first token, peak memory (Linux)."""
    with tempfile.TemporaryDirectory() as cache, chromium() as browser:
        with served(cache=cache) as server:
            opened(browser, server.address).close()
            first = time.perf_counter() - server.began
        with served(cache=cache) as server:
            page = opened(browser, server.address)
            later = time.perf_counter() - server.began
            figures = _used(page, server)
    return [
        Figure("first start with an empty cache, process to usable page", first, "s", 180),
        Figure("later start", later, "s", 25),
        *figures,
    ]


def _used(page: Page, server: Server) -> list[Figure]:
    """What a visitor notices, and the server's memory afterwards."""
    readouts = page.evaluate(DRAG)  # while the first completion is running
    first_tokens = [page.evaluate(_RELEASE, percent) for percent in (90, 50, 70, 35, 100, 60, 80)]
    page.click("#measure")
    page.wait_for_selector('#chart .plot[data-measured="2"]')
    peak = server.memory(peak=True)
    curve = read_artifact(default_artifact(DEFAULT_MODEL)).curves[0]
    point = max(curve.points, key=lambda point: point.ratio)  # the base model
    return [
        median_of("readouts after a slider movement, painted", readouts, "ms", 150),
        Figure("the slowest of these", max(readouts), "ms", 150),
        median_of("first streamed token after release", first_tokens, "s", 1.5),
        Figure("peak memory of the page less 1 GB ÷ base weights", (peak - 1e9) / point.bytes, "×", 2.2),
    ]
