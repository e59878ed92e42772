"""Start and stop the page's server: theme, style sheet, script, and plotly's own file, all from this machine.

The page works without network: system fonts, no content delivery network, no telemetry.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
import plotly
from gradio.queueing import Queue
from gradio.utils import LRUCache
from starlette.middleware import Middleware
from starlette.responses import FileResponse
from starlette.routing import Route

from ..ui import downloads
from .galleries import COMPRESSED
from .gate import Gate, inputs_by_function
from .handlers import Handlers
from .hosts import Hosts
from .page import ASSETS
from .port import PortError, check_port

_PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_PLOTLY_ROUTE = "acip/plotly.min.js"
_SCRIPTS = ("plot", "page", "kept", "link", "pictures")  # others come with their part of the page
_MAX_WAITING = 300  # requests beyond the running ones; later ones are told that the page is busy
_MOST_SESSIONS = 64  # whose latest inputs Gradio keeps, 200 KB each; the page never asks for them
_MOST_LISTENERS = 1024  # sessions whose unread messages Gradio keeps
_MOST_RECORDS = 100  # of finished requests, which Gradio sums up after every one; nobody can read them
_GRACE = 1  # seconds for answers on their way; event streams never end by themselves
_MAX_THREADS = 140  # 50 completions and 50 measurements may wait for their turns, and the page still answers


class _AfterTheEnd(logging.Filter):
    """Leaves out what the server says of clients that go on sending when their connection is over."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and type(record.exc_info[1]).__name__ == "LocalProtocolError")


_AFTER_THE_END = _AfterTheEnd()


def launch(page: gr.Blocks, handlers: Handlers, host: str, port: int, also: Sequence[str] = ()) -> str:
    """Start serving in the background.

    Args:
        also: as `Hosts`.

    Returns:
        The address to open in a browser.

    Raises:
        PortError: as `port.check_port`.
    """
    routes = [
        Route(f"/{_PLOTLY_ROUTE}", _plotly_file, middleware=COMPRESSED),
        handlers.galleries.route(),
        Route(f"/{downloads.ROUTE}/{{token}}/{{name}}", handlers.downloads.fetch),
    ]
    page.queue(default_concurrency_limit=None, max_size=_MAX_WAITING, api_open=False)  # no way past the queue
    _bound_memory(page._queue)
    for name in ("asyncio", "uvicorn.error"):
        logging.getLogger(name).addFilter(_AFTER_THE_END)
    started = threading.Event()
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            inline=False,
            show_error=False,
            enable_monitoring=False,
            run_history=False,  # prompts are kept nowhere, not even in the visitor's browser
            state_session_capacity=_MOST_SESSIONS,
            max_file_size=1,  # bytes; the page takes no files
            ssr_mode=False,
            max_threads=_MAX_THREADS,
            footer_links=[],
            theme=_theme(),
            css_paths=[ASSETS / "page.css"],
            head=_head(),
            app_kwargs={
                "routes": routes,
                "openapi_url": None,
                "middleware": [_gate(page, handlers, Hosts(host, also), started)],
            },
        )
    except OSError as error:
        check_port(host, port)
        raise PortError(f"Cannot start the page on port {port} ({error}); choose another with `--port`.") from None
    started.set()
    return f"http://{'localhost' if host in ('127.0.0.1', '0.0.0.0') else host}:{port}/"


def _bound_memory(queue: Queue) -> None:
    """Gradio keeps something of every session and request there was; here, of the latest ones."""
    queue.ANALYTICS_MAX_EVENTS, queue.ANAYLTICS_CACHE_FREQUENCY = _MOST_RECORDS, sys.maxsize
    queue.pending_messages_per_session.max_size = _MOST_LISTENERS
    queue.pending_event_ids_session = LRUCache(_MOST_LISTENERS)


def _gate(page: gr.Blocks, handlers: Handlers, hosts: Hosts, started: threading.Event) -> Middleware:
    messages = page._queue.pending_messages_per_session
    return Middleware(
        Gate,
        hosts=hosts,
        arrive=handlers.visitors.arrive,
        inputs=inputs_by_function(page.fns),
        listening=messages.__contains__,
        started=started.is_set,
    )


def close(page: gr.Blocks, handlers: Handlers) -> None:
    """Stop serving at once, whoever is connected, and free the port and the model's memory."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cut off is cut off on purpose
    page.server.config.timeout_graceful_shutdown = _GRACE
    page.close(verbose=False)
    handlers.close()


def _plotly_file(request: object) -> FileResponse:
    return FileResponse(_PLOTLY, media_type="text/javascript", headers={"Cache-Control": "public, max-age=86400"})


def _head() -> str:
    script = "".join((ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    return f'<script>{script}</script><script defer src="{_PLOTLY_ROUTE}"></script>'


def _theme() -> gr.themes.Base:
    theme = gr.themes.Soft(
        primary_hue="orange",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    )
    return theme.set(**json.loads((ASSETS / "theme.json").read_text(encoding="utf-8")))
