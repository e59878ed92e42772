"""`python -m benchmarks.screenshot`: the README's picture of the real page, and `--all` for the four variants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from .browser import ROOT, SLIDER, chromium, opened, served

_VARIANTS = [
    (name, size, theme)
    for name, size in {"desktop": (1280, 900), "phone": (390, 844)}.items()
    for theme in ("light", "dark")
]
_MOST_BYTES = 400_000  # the picture is part of the repository
_STEPS = 30  # from 100 to 70 %


def main(
    out: Annotated[Path, typer.Option(help="Where the desktop picture goes.")] = ROOT / "assets" / "screenshot.png",
    everything: Annotated[
        Path | None, typer.Option("--all", help="Folder for desktop and phone, light and dark.")
    ] = None,
    artifact: Annotated[str | None, typer.Option(help="As `app.py`.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a page that runs already; otherwise one is started.")] = None,
) -> None:
    """Drag to 70 %, wait for the completion, take the picture."""
    variants = _VARIANTS if everything else _VARIANTS[:1]
    running = nullcontext(address) if address else _started(["--artifact", artifact] if artifact else [])
    with chromium() as browser, running as at:
        for name, (width, height), theme in variants:
            page = opened(browser, at.rstrip("/") + "/", width, height, theme)
            page.focus(SLIDER)
            for _ in range(_STEPS):
                page.keyboard.press("ArrowLeft")
            page.wait_for_selector('#completion [data-state="done"][data-percent="70"]')
            page.evaluate("document.activeElement.blur(); document.querySelector('#completion pre').scrollTop = 0")
            target = everything / f"{name}-{theme}.png" if everything else out
            target.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=target, full_page=name == "phone")
            page.close()
            if target.stat().st_size > _MOST_BYTES:
                raise typer.BadParameter(f"{target} has {target.stat().st_size:,} bytes, more than {_MOST_BYTES:,}")


@contextmanager
def _started(options: list[str]) -> Iterator[str]:
    with served(*options) as server:
        yield server.address


if __name__ == "__main__":
    typer.run(main)
