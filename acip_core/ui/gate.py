"""What strangers can reach: the few requests that the page and Python's `gradio_client` make, and nothing else.

Gradio brings some sixty routes, of which some write files or load others for whoever asks. Whatever is not listed here
is not there; what is listed has a bounded body, whose shape is checked before Gradio stores it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..data.passage import MOST_CHARACTERS
from .hosts import Hosts

ARRIVAL = "acip.arrival"  # key in a request's scope
MOST_BYTES = 6 * MOST_CHARACTERS + 50_000  # a text of one's own where JSON writes every character as \uXXXX
_FEW_BYTES = 4_000
_SESSION = re.compile(r"[\w-]{1,64}")
_API = "/gradio_api"
_READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/(assets|static)/.+|/acip/.+"
    rf"|{_API}/(info|app_id|queue/data|heartbeat/{_SESSION.pattern})"
)
_CALL = (f"{_API}/queue/join", f"{_API}/run/predict")
_WRITE = {**dict.fromkeys(_CALL, MOST_BYTES), **dict.fromkeys((f"{_API}/cancel", f"{_API}/reset"), _FEW_BYTES)}
_STREAM = f"{_API}/queue/data"


class _RefusedError(Exception):
    """A request that goes no further: status and sentence."""


class Gate:
    """ASGI middleware in front of Gradio.

    Args:
        hosts: names the server has.
        arrive: gives each request its number.
        inputs: of each function that can be called, by its index: how many it takes.
        listening: whether a session has anything to listen to.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Hosts,
        arrive: Callable[[], int],
        inputs: Mapping[int, int],
        listening: Callable[[str], bool],
    ):
        self._app, self._hosts, self._arrive, self._inputs = app, hosts, arrive, inputs
        self._listening = listening

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})  # the page has none
        scope[ARRIVAL] = self._arrive()
        try:
            receive = await self._let_in(scope, receive)
        except _RefusedError as error:
            return await _refusal(*error.args)(scope, receive, send)
        await self._app(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive) -> Receive:
        """What the request's body is read from; its query is gone where it means nothing."""
        self._check_name(Headers(scope=scope))
        path, method = scope["path"], scope["method"]
        if path != _STREAM:
            scope["query_string"] = b""  # others are switches of Gradio's: deep links, endpoints that are private
        if method in ("GET", "HEAD") and _READ.fullmatch(path):
            if path == _STREAM and not self._listening(Request(scope).query_params.get("session_hash", "")):
                raise _RefusedError(HTTPStatus.NOT_FOUND, "There is no such session.")
            return receive
        if method == "POST" and path in _WRITE:
            body = await _read(Headers(scope=scope), receive, _WRITE[path])
            return _again(self._checked(body) if path in _CALL else body, receive)
        raise _RefusedError(HTTPStatus.NOT_FOUND, "Not Found")

    def _check_name(self, headers: Headers) -> None:
        """Gradio takes the page's own address from both of these."""
        forwarded = headers.get("x-forwarded-host", "").partition(",")[0]
        for name in (headers.get("host", ""), *([forwarded] if forwarded else [])):
            if not self._hosts.know(name):
                raise _RefusedError(HTTPStatus.MISDIRECTED_REQUEST, self._hosts.refusal(name))

    def _checked(self, body: bytes) -> bytes:
        """A call as the page makes them, without what only Gradio's other features read."""
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "The request is no JSON.") from None
        if not isinstance(call, dict):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "The request is no JSON object.")
        session, function, data = (call.get(key) for key in ("session_hash", "fn_index", "data"))
        if not (isinstance(session, str) and _SESSION.fullmatch(session)):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "The request names no session: 1 to 64 letters and digits.")
        if type(function) is not int or function not in self._inputs:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "There is no such function.")
        if not isinstance(data, list) or len(data) != self._inputs[function]:
            sentence = f"The function takes a list of {self._inputs[function]} values."
            raise _RefusedError(HTTPStatus.BAD_REQUEST, sentence)
        if not all(_plain(value) or (isinstance(value, list) and all(map(_plain, value))) for value in data):
            sentence = "A value must be text, a number, true, false, null, or a list of these."
            raise _RefusedError(HTTPStatus.BAD_REQUEST, sentence)
        return json.dumps({"session_hash": session, "fn_index": function, "data": data}).encode()


def inputs_by_function(functions: Mapping[int, Any]) -> dict[int, int]:
    """How many values each of a Gradio page's functions takes, of those that run on the server."""
    return {index: len(function.inputs) for index, function in functions.items() if function.fn is not None}


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


async def _read(headers: Headers, receive: Receive, most: int) -> bytes:
    """The whole body, unless it says or turns out to be too long."""
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > most:
        raise _too_long(most)
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "The request was cut off.")
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_long(most)
        more = message.get("more_body", False)
    return bytes(body)


def _too_long(most: int) -> _RefusedError:
    sentence = f"The request is longer than {most:,} bytes; shorten the text."
    return _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)


def _again(body: bytes, receive: Receive) -> Receive:
    """Reads `body`, then whatever follows it."""
    left: Sequence[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        nonlocal left
        if left:
            message, left = left[0], ()
            return message
        return await receive()

    return read


def _refusal(status: HTTPStatus, sentence: str) -> Response:
    headers = {"Connection": "close"}  # what is left of a body is not read
    if status == HTTPStatus.MISDIRECTED_REQUEST:
        return PlainTextResponse(sentence, status, headers)
    return JSONResponse({"detail": sentence}, status, headers)
