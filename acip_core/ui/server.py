"""The page's one HTTP server: it keeps its port from start to end, and what answers behind it is exchanged.

Imports nothing that takes long, so that the waiting page is there at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import uvicorn

from ..errors import AcipError
from .hosts import Hosts
from .port import listening_socket
from .waiting import STATE_ROUTE, WaitingPage

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_GRACE_SECONDS = 1  # for answers on their way when their page closes; event streams never end by themselves
_T = TypeVar("_T")


class ServedPage(Protocol):
    """What can answer behind the server.

    Attributes:
        version: unlike that of any other page, also of another process.
    """

    version: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        """From its start to its end, in the server's event loop."""

    def stop(self) -> None:
        """Begin the end: its streams end and its runs stop. Called in the server's event loop."""


class _ClosedError(Exception):
    """An answer was cut off because its page is closed."""


class _NotOurs(logging.Filter):
    """Drops records about answers that were cut off on purpose and clients that send after their connection's end."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, _ClosedError) and type(error).__name__ != "LocalProtocolError"


_NOT_OURS = _NotOurs()


class PageServer:
    """Serves the waiting page in the background until another page is shown, and after that one is withdrawn.

    Args:
        also: as `Hosts`.

    Attributes:
        hosts: the server's names.
        waiting: the waiting page.
        address: to open in a browser.

    Raises:
        PortError: as `port.listening_socket`.
    """

    def __init__(self, host: str, port: int, also: Sequence[str] = ()):
        self.hosts = Hosts(host, also)
        self.waiting = WaitingPage(self.hosts)
        named = "localhost" if host in ("127.0.0.1", "0.0.0.0") else f"[{host}]" if ":" in host else host
        self.address = f"http://{named}:{port}/"
        self._socket = listening_socket(host, port)
        self._page: ServedPage | None = None
        self._closing = False
        self._answers: set[asyncio.Task[Any]] = set()  # of the page, on their way
        config = uvicorn.Config(
            self._application,
            interface="asgi3",
            lifespan="off",  # that of each page runs while it is shown
            log_level="warning",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        for name in ("asyncio", "uvicorn.error"):
            logging.getLogger(name).addFilter(_NOT_OURS)
        self._server = uvicorn.Server(config)
        self._looping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page server", daemon=True)
        self._thread.start()
        self._looping.wait()

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free the port, after telling browsers that wait what went wrong."""
        if isinstance(error, AcipError):
            self.waiting.fail(error)
        self.close()

    def show(self, page: ServedPage) -> None:
        """Start a page and let it answer from now on."""
        self._in_loop(self._show(page))

    def withdraw(self) -> None:
        """Let the waiting page answer again and end the page that was shown, whoever is connected to it."""
        self._in_loop(self._withdraw())

    def close(self) -> None:
        """Stop serving at once, whoever is connected, and free the port."""
        if not self._thread.is_alive():
            return
        self._closing = True
        self.withdraw()
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cut off is cut off on purpose
        self._server.should_exit = True
        self._thread.join(timeout=5)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._looping.set()
            runner.run(self._server.serve(sockets=[self._socket]))

    def _in_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _show(self, page: ServedPage) -> None:
        started, self._leaving = self._loop.create_future(), asyncio.Event()
        self._life = self._loop.create_task(self._live(page, started))
        await asyncio.wait([started, self._life], return_when=asyncio.FIRST_COMPLETED)
        if self._life.done():
            return await self._life  # it did not start: its error
        self._page = page
        self.waiting.opened(page.version)

    async def _live(self, page: ServedPage, started: asyncio.Future[None]) -> None:
        """One task from a page's start to its end, as libraries ask for that bind what they open to a task."""
        async with page.lifespan():
            started.set_result(None)
            await self._leaving.wait()

    async def _withdraw(self) -> None:
        page, self._page = self._page, None
        if page is None:
            return
        self.waiting.opened("")
        page.stop()
        await self._answered()
        for answer in self._answers:
            answer.cancel()
        await self._answered()
        self._leaving.set()
        await self._life

    async def _answered(self) -> None:
        if self._answers:
            await asyncio.wait(self._answers, timeout=_GRACE_SECONDS)

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._closing:
            raise _ClosedError  # nothing else is to come: open pages stay as they are until a server is back
        if scope["type"] == "http" and scope["path"].endswith(STATE_ROUTE):
            return await self.waiting.tell_state(scope, send)
        page = self._page
        if page is None:
            return await self.waiting(scope, receive, send)
        answer = asyncio.current_task()
        assert answer is not None
        self._answers.add(answer)
        try:
            await page(scope, receive, send)
        except asyncio.CancelledError:
            if page is self._page:
                raise
            raise _ClosedError from None
        finally:
            self._answers.discard(answer)
