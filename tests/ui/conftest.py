"""The page of a tiny model, served for all tests of a file, and its visitors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch
from playwright.sync_api import BrowserContext, Page

from acip_core.generation.engine import Engine
from acip_core.ui.handlers import Handlers
from tests.support.browser import newcomers
from tests.support.visitor import Slowness, Visit, at_rest, opened, served, tiny_loaded


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Handlers]]:
    with served(tiny_loaded("A note for <b>people</b>.")) as (address, handlers):
        handlers.model.engine.ends = frozenset()  # a random model ends its text at random
        handlers.model.windows = lambda corpus: torch.randint(
            3, 128, (16, 24), generator=torch.Generator().manual_seed(1)
        )
        yield address, handlers


@pytest.fixture(autouse=True)
def ended(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test leaves running, as the tab that others go on in, ends with it: the next one's visitor is alone."""
    handlers = request.getfixturevalue("server")[1] if "server" in request.fixturenames else None
    yield
    if handlers is not None:
        handlers.visitors.leave_all()


@pytest.fixture
def engine(server: tuple[str, Handlers]) -> Engine:
    return server[1].model.engine


@pytest.fixture
def slow(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slowness]:
    """A page slow enough to write texts piece by piece; what is looked at in the middle of one sets `VERY_SLOW`."""
    forward, slowness = engine.forward, Slowness()

    def slowed(*arguments, **options):
        if threading.current_thread() is not threading.main_thread():  # what a test compares with comes at once
            began = time.monotonic()
            while (left := began + slowness.seconds - time.monotonic()) > 0:  # which a test may change meanwhile
                time.sleep(min(left, 0.02))
        return forward(*arguments, **options)

    monkeypatch.setattr(engine, "forward", slowed)
    yield slowness
    slowness.seconds = 0  # nobody waits for what a failed test left held


@pytest.fixture
def visit(profile: BrowserContext, server: tuple[str, Handlers]) -> Iterator[Visit]:
    """Opens the page for a new visitor, or in another tab of a visitor's browser.

    Afterwards there must have been no console error and no request to anywhere else.
    """
    wrong: list[str] = []
    with newcomers(profile) as newcomer:
        yield lambda context=None, link="": opened(context or newcomer(), server[0], wrong, link)
    assert wrong == []


@pytest.fixture(scope="module")
def kept(profile: BrowserContext, server: tuple[str, Handlers]) -> Iterator[tuple[Page, list[str]]]:
    """One tab for all tests of a file, and what went wrong in it."""
    wrong: list[str] = []
    tab = opened(profile, server[0], wrong)
    yield tab, wrong
    tab.close()


@pytest.fixture
def page(kept: tuple[Page, list[str]]) -> Iterator[Page]:
    """The page as a visitor has it who has been there for some time: at 100 %, with the first prompt and its text."""
    tab, wrong = kept
    at_rest(tab)
    yield tab
    assert wrong == []
