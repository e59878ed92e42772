"""A headless Chromium, and people who come with it to a page where they never were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

PATIENCE = 120_000  # milliseconds; a wait ends with what it waits for, so only a failing test takes this long
expect.set_options(timeout=PATIENCE)
Newcomer = Callable[..., BrowserContext]


@contextmanager
def chromium(program: str, folder: Path) -> Iterator[BrowserContext]:
    """A browser with a profile in a folder: it keeps there what it compiled of a page's scripts.

    A page takes 1.5 s of the processor once it was opened twice, and 3.8 s before and without a profile.
    """
    with sync_playwright() as playwright:
        profile = playwright.chromium.launch_persistent_context(folder, executable_path=program, args=["--no-sandbox"])
        profile.set_default_timeout(PATIENCE)
        yield profile
        profile.close()


@contextmanager
def newcomers(profile: BrowserContext) -> Iterator[Newcomer]:
    """Gives a context to each newcomer and closes what they opened.

    The first gets the profile, from which everything is cleared but what saves time; those beside it get contexts of
    their own, as do those who ask for options.
    """
    before = profile.pages
    apart: list[BrowserContext] = []
    free = True

    def newcomer(**options: object) -> BrowserContext:
        nonlocal free
        if free and not options:
            free = False
            return profile
        assert profile.browser is not None
        apart.append(profile.browser.new_context(**options))  # type: ignore[arg-type]
        apart[-1].set_default_timeout(PATIENCE)
        return apart[-1]

    try:
        yield newcomer
    finally:
        for context in apart:
            context.close()
        _leave([page for page in profile.pages if page not in before], profile)


def _leave(pages: list[Page], profile: BrowserContext) -> None:
    if pages:
        everything = {"origin": "*", "storageTypes": "cookies,local_storage,indexeddb,service_workers,cache_storage"}
        profile.new_cdp_session(pages[0]).send("Storage.clearDataForOrigin", everything)
    for page in pages:
        page.close()
    profile.clear_permissions()
