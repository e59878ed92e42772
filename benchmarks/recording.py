"""`python -m benchmarks.recording`: the README's moving picture, twenty seconds of dragging on the real page."""

from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from playwright.sync_api import Error, Page

from .browser import ROOT, SLIDER, await_codes, chromium, opened, served

_SIZE = (1440, 880)
_WIDTH = 960  # of the picture
_FRAME = 0.1  # seconds
_QUALITY = 60
_MOST_BYTES = 3_000_000  # the picture is part of the repository
_THUMB = 26  # pixels
_ENDS = ("min", "max", "value")
_READY = "document.querySelectorAll('#readouts .ready i').length >= 25"
# Where the slider goes (in hundredths of its track), how long that takes and how long it is let rest there (s).
_MOVES = [(8, 7.0, 0.6), (33, 3.0, 4.4), (0, 2.0, 0.5), (60, 2.0, 0.0)]


@dataclass
class _Reel:
    """Frames as the browser paints them, with their times."""

    frames: list[tuple[float, bytes]] = field(default_factory=list)

    def take(self, page: Page) -> Any:
        session = page.context.new_cdp_session(page)

        def painted(event: dict[str, Any]) -> None:
            self.frames.append((event["metadata"]["timestamp"], base64.b64decode(event["data"])))
            with suppress(Error):  # the last frames come when the page is closed
                session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

        session.on("Page.screencastFrame", painted)
        session.send("Page.startScreencast", {"format": "png"})
        return session

    def pictures(self) -> Iterator[Image.Image]:
        """What was to be seen every `_FRAME` seconds."""
        start, end = self.frames[0][0], self.frames[-1][0]
        at = 0
        for step in range(math.ceil((end - start) / _FRAME) + 1):
            while at + 1 < len(self.frames) and self.frames[at + 1][0] <= start + step * _FRAME:
                at += 1
            image = Image.open(io.BytesIO(self.frames[at][1])).convert("RGB")
            yield image.resize((_WIDTH, round(image.height * _WIDTH / image.width)), Image.Resampling.LANCZOS)


def main(
    out: Annotated[Path, typer.Option(help="Where the picture goes (animated WebP).")] = ROOT / "assets" / "drag.webp",
) -> None:
    """Drag over the texts of the first example and let go once, as fast as a hand does it."""
    reel = _Reel()
    with chromium() as browser, served() as server:
        await_codes(server.address)
        page = opened(browser, server.address, *_SIZE)
        page.wait_for_function(_READY)
        page.wait_for_selector('#completion [data-state="done"]')
        session = reel.take(page)
        page.wait_for_timeout(1000)
        low, high, at = (float(page.locator(SLIDER).evaluate(f"(input) => input.{end}")) for end in _ENDS)
        at = 100 * (at - low) / (high - low)
        for place, seconds, rest in _MOVES:
            page.mouse.move(*_place(page, at))
            page.mouse.down()
            _drag(page, at, place, seconds)
            page.mouse.up()
            page.wait_for_timeout(1000 * rest)
            at = place
        page.wait_for_timeout(1000)
        session.send("Page.stopScreencast")
    first, *others = reel.pictures()
    options: dict[str, Any] = {"duration": round(1000 * _FRAME), "loop": 0, "quality": _QUALITY, "method": 4}
    first.save(out, save_all=True, append_images=others, **options)
    typer.echo(f"{out}: {len(others) + 1} frames, {out.stat().st_size:,} bytes")
    if out.stat().st_size > _MOST_BYTES:
        raise typer.BadParameter(f"{out} has {out.stat().st_size:,} bytes, more than {_MOST_BYTES:,}")


def _drag(page: Page, start: float, end: float, seconds: float) -> None:
    """Slow at both ends, as hands are."""
    began = time.perf_counter()
    while (share := (time.perf_counter() - began) / seconds) < 1:
        page.mouse.move(*_place(page, start + (end - start) * (1 - math.cos(math.pi * share)) / 2))
        page.wait_for_timeout(30)  # lets frames come in
    page.mouse.move(*_place(page, end))


def _place(page: Page, hundredths: float) -> tuple[float, float]:
    """Where the thumb is at a place of the track."""
    box = page.locator(SLIDER).bounding_box()
    if box is None:
        raise RuntimeError("The slider is not to be seen.")
    x = box["x"] + _THUMB / 2 + (box["width"] - _THUMB) * hundredths / 100
    return x, box["y"] + box["height"] / 2


if __name__ == "__main__":
    typer.run(main)
