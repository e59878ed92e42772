"""What a browser sees while no model is open: what is loading, and how far it is.

Imports nothing that takes long, so that it answers at once.
"""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from ..errors import AcipError
from ..paths import assets_dir
from ..progress import Progress
from .hosts import Hosts
from .names import without_places

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

STATE_ROUTE = "/acip/state"
_PAGE = assets_dir() / "waiting.html"
_READ_SECONDS = 2.0  # a page that asked within this time reads why there will be none


class WaitingPage:
    """ASGI application that answers every request with a page that says what is loading.

    Every answer is 503, for who asks is not served yet. That page asks `STATE_ROUTE` again and again and gives way once
    the state names a version.

    Args:
        hosts: names the server has; requests for others are refused.
    """

    def __init__(self, hosts: Hosts):
        self._hosts = hosts
        self._state = {"version": "", "stage": "Starting", "done": 0, "total": 0, "error": ""}
        self._asked = 0.0  # when a browser asked for the state, on the monotonic clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        if refusal := self._refusal(scope):
            return await _answer(scope, send, HTTPStatus.MISDIRECTED_REQUEST, "text/plain; charset=utf-8", refusal)
        await _answer(scope, send, HTTPStatus.SERVICE_UNAVAILABLE, "text/html; charset=utf-8", _PAGE.read_bytes())

    async def tell_state(self, scope: Scope, send: Send) -> None:
        """Answer what is going on: `version` of the page that is open, empty while none is; else what is loading."""
        if refusal := self._refusal(scope):
            return await _answer(scope, send, HTTPStatus.MISDIRECTED_REQUEST, "text/plain; charset=utf-8", refusal)
        self._asked = time.monotonic()
        await _answer(scope, send, HTTPStatus.OK, "application/json", json.dumps(self._state).encode())

    def tell(self, step: Progress) -> None:
        """Set what is loading now."""
        self._state |= {"stage": step.stage, "done": step.done, "total": step.total}

    def opened(self, version: str) -> None:
        """Set which page is open now; an empty version means none, and that something is loading."""
        self._state |= {"version": version, "stage": "Starting", "done": 0, "total": 0}

    def fail(self, error: AcipError) -> None:
        """Say why there will be no page; returns once waiting browsers had the time to read it."""
        self._state |= {"error": without_places(str(error))}
        if time.monotonic() - self._asked < _READ_SECONDS:
            time.sleep(_READ_SECONDS)

    def _refusal(self, scope: Scope) -> bytes:
        """What a request for a name that is not the server's is told; nothing for others."""
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        return b"" if self._hosts.know(host) else self._hosts.refusal(host).encode()


async def _answer(scope: Scope, send: Send, status: HTTPStatus, kind: str, body: bytes) -> None:
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": pairs})
    await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})
