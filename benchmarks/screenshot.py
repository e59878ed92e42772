"""`python -m benchmarks.screenshot`: pictures of the real page, for the README and for previews of its link.

With `--all` also the four variants of the first screen, desktop and phone, light and dark.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import Page

from .browser import ROOT, await_codes, chromium, opened, served

_VARIANTS = [
    (name, size, theme)
    for name, size in {"desktop": (1440, 900), "phone": (390, 844)}.items()
    for theme in ("light", "dark")
]
_PREVIEW = (1200, 630)  # as sites that show previews of links ask for
_TELLING = "?embed#size=24&mode=both&prompt=George+Washington+was+the+first"  # a size that forgets what is quickly read
_MOST_BYTES = 400_000  # the pictures are part of the repository


def main(
    out: Annotated[Path, typer.Option(help="Folder for the two pictures.")] = ROOT / "assets",
    everything: Annotated[
        Path | None, typer.Option("--all", help="Folder for desktop and phone, light and dark.")
    ] = None,
    artifact: Annotated[str | None, typer.Option(help="As `app.py`.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a page that runs already; otherwise one is started.")] = None,
) -> None:
    """Take pictures of the first screen as it opens, and of its embedded view, once their texts are written."""
    running = served(*(["--artifact", artifact] if artifact else [])) if address is None else nullcontext()
    with chromium() as browser, running as server:
        at = address.rstrip("/") + "/" if address is not None else server.address
        await_codes(at)
        for name, size, theme in _VARIANTS if everything else _VARIANTS[:1]:
            page = opened(browser, at, *size, theme)
            _take(page, everything / f"{name}-{theme}.png" if everything else out / "screenshot.png")
        page = browser.new_page(viewport={"width": _PREVIEW[0], "height": _PREVIEW[1]})
        page.set_default_timeout(300_000)
        page.goto(at + _TELLING)
        _take(page, (everything or out) / "preview.png")


def _take(page: Page, target: Path) -> None:
    page.wait_for_selector('#completion [data-state="done"]')
    page.evaluate("document.activeElement.blur()")
    target.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=target)
    page.close()
    if target.stat().st_size > _MOST_BYTES:
        raise typer.BadParameter(f"{target} has {target.stat().st_size:,} bytes, more than {_MOST_BYTES:,}")


if __name__ == "__main__":
    typer.run(main)
