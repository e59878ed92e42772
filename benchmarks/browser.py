"""The real page in a real browser, for figures and pictures."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SLIDER = "#size input[type=range]"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PATIENCE = 600  # seconds for a first start


@dataclass(frozen=True)
class Server:
    """A running `app.py`; `began` is when its process was started, as `time.perf_counter`."""

    address: str
    pid: int
    began: float

    def memory(self, peak: bool = False) -> int:
        """Resident bytes of the process, now or at most so far (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:" if peak else "VmRSS:")[2].split()[0])


@contextmanager
def served(*arguments: str, cache: str | None = None) -> Iterator[Server]:
    """Run `app.py` on a free port until the block ends, with a cache folder of its own if one is named.

    Raises:
        RuntimeError: it stopped, with what it printed last.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port), *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | ({"ACIP_CACHE": cache} if cache else {}),
    )
    try:
        address = f"http://127.0.0.1:{port}/"
        while not _answers(address):
            if process.poll() is not None or time.perf_counter() - began > _PATIENCE:
                process.kill()
                raise RuntimeError(f"The page did not start: {process.communicate()[1].decode()[-500:]}")
            time.sleep(0.1)
        yield Server(address, process.pid, began)
    finally:
        process.terminate()
        process.communicate()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def await_codes(address: str) -> None:
    """Until the page can spend bits, where its model has them."""
    state = "waiting"
    while state in ("waiting", "running"):
        with urllib.request.urlopen(f"{address}acip/modes", timeout=60) as answer:
            state = json.load(answer)["state"]
        time.sleep(0.5)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium, the one CHROMIUM names or the first that is installed."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        raise RuntimeError("No Chrome or Chromium is installed; install one or set CHROMIUM to its path.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(
    browser: Browser, address: str, width: int = 1280, height: int = 900, theme: str = "light", link: str = ""
) -> Page:
    """The page, ready to be used.

    Args:
        link: what follows the # in the address.
    """
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(300_000)
    page.goto(f"{address}?__theme={theme}#{link}" if link else f"{address}?__theme={theme}")
    page.wait_for_selector(SLIDER)
    page.wait_for_selector("#chart .plot[data-ready=true]")
    return page
