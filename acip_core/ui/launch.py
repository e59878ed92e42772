"""The page as an application for the server: theme, style sheet, scripts, all from this machine.

The page works without network: system fonts, no content delivery network, no telemetry.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import downloads, scripts
from .document import Rewriting
from .frames import EndingFrames
from .gate import Gate, inputs_by_function
from .gradio_import import LRUCache, Queue, gr
from .handlers import Handlers
from .hosts import Hosts
from .kept_answers import KeptAnswers
from .page import ASSETS

_MAX_WAITING = 300  # requests beyond the running ones; later ones are told that the page is busy
_MOST_SESSIONS = 64  # whose latest inputs Gradio keeps, 200 KB each; the page never asks for them
_MOST_LISTENERS = 1024  # sessions whose unread messages Gradio keeps
_MOST_RECORDS = 100  # of finished requests, which Gradio sums up after every one; nobody can read them
_LOOK = 0.01  # seconds between Gradio's looks for new requests; its own 0.001 takes a fifteenth of a core at rest
_LOOK_FOR_PROGRESS = 1.0  # seconds between its looks for progress of its own kind, which no handler of the page reports
_SWITCH = 0.0002  # seconds until a thread hands over the interpreter; the model's asks for it after every product
_MAX_THREADS = 140  # 50 completions and 50 measurements may wait for their turns, and the page still answers


class MountedPage:
    """A page behind its gate, as `server.PageServer` shows it; it lives once.

    Attributes:
        version: what `STATE_ROUTE` names while this page is open; the page's scripts know it, too.
    """

    def __init__(self, blocks: gr.Blocks, handlers: Handlers, hosts: Hosts):
        self.version = handlers.version
        self._blocks, self._handlers = blocks, handlers
        self._mounted = _mounted(blocks, handlers)
        self._application = _gate(KeptAnswers(self._mounted), blocks, handlers, hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":  # a browser may have the page that was shown before
                message["headers"] = [*message.get("headers", ()), (b"acip-page", self.version.encode())]
            await send(message)

        await self._application(scope, receive, named)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """From the start of Gradio's queue until the model's memory is free."""
        sys.setswitchinterval(_SWITCH)
        async with self._mounted.router.lifespan_context(self._mounted):
            self._handlers.model.modes.preparation.start()
            yield
        await asyncio.to_thread(self._handlers.close)  # waits for what is being made

    def stop(self) -> None:
        """End all runs and Gradio's own event streams."""
        self._handlers.visitors.leave_all()
        self._blocks.close(verbose=False)


def _mounted(blocks: gr.Blocks, handlers: Handlers) -> FastAPI:
    """An application that has the page at its root, and whose lifespan is that of the page."""
    routes = [
        *scripts.routes(),
        handlers.model.galleries.route(),
        handlers.model.modes.route(),
        handlers.model.modes.knowledge.route(),
        Route(f"/{downloads.ROUTE}/{{token}}/{{name}}", handlers.model.downloads.fetch),
    ]
    blocks.max_threads = _MAX_THREADS
    blocks.state_session_capacity = _MOST_SESSIONS
    blocks.queue(default_concurrency_limit=None, max_size=_MAX_WAITING, api_open=False)  # no way past the queue
    blocks._queue.sleep_when_free, blocks._queue.progress_update_sleep_when_free = _LOOK, _LOOK_FOR_PROGRESS
    _bound_memory(blocks._queue)
    application = gr.mount_gradio_app(
        FastAPI(openapi_url=None, docs_url=None, redoc_url=None),
        blocks,
        path="/",
        show_error=False,
        enable_monitoring=False,
        run_history=False,  # prompts are kept nowhere, not even in the visitor's browser
        max_file_size=1,  # bytes; the page takes no files
        ssr_mode=False,
        footer_links=[],
        theme=_theme(),
        css_paths=[ASSETS / "page.css"],
        app_kwargs={
            "routes": routes,
            "openapi_url": None,
            "middleware": [Middleware(Rewriting, document=handlers.document), Middleware(EndingFrames)],
        },
    )
    blocks.app = application.routes[-1].app  # as launch() does: what close() ends
    return application


def _bound_memory(queue: Queue) -> None:
    """Gradio keeps something of every session and request there was; here, of the latest ones."""
    queue.ANALYTICS_MAX_EVENTS, queue.ANAYLTICS_CACHE_FREQUENCY = _MOST_RECORDS, sys.maxsize
    queue.pending_messages_per_session.max_size = _MOST_LISTENERS
    queue.pending_event_ids_session = LRUCache(_MOST_LISTENERS)


def _gate(application: ASGIApp, blocks: gr.Blocks, handlers: Handlers, hosts: Hosts) -> Gate:
    return Gate(
        application,
        hosts=hosts,
        arrive=handlers.visitors.arrive,
        inputs=inputs_by_function(blocks.fns),
        listening=blocks._queue.pending_messages_per_session.__contains__,
    )


def _theme() -> gr.themes.Base:
    theme = gr.themes.Soft(
        primary_hue="orange",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    )
    return theme.set(**json.loads((ASSETS / "theme.json").read_text(encoding="utf-8")))
