"""Files of the page, read and compressed once: a first visit asks for a hundred, and Gradio does both for each anew."""

from __future__ import annotations

import re
from collections import OrderedDict

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .whole_answer import whole_answer

_FILES = re.compile(r"/(assets|static/js|acip/js)/.+|/acip/plotly\.min\.js")
_HASHED = "/assets/"  # names of files there hold a digest of what is in them
_KEEP = "public, max-age=31536000, immutable"
_ENCODINGS = ("br", "gzip")  # what Gradio compresses with, the first one that is taken
_MOST_BYTES = 16_000_000  # of answers; a page needs 2 MB
_PARTLY = ("range", "if-range", "if-none-match", "if-modified-since")  # headers that ask for less than the file


class KeptAnswers:
    """ASGI middleware that keeps answers with files, and gives them to whoever else takes the same encoding."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self._kept: OrderedDict[tuple[str, str], tuple[Message, bytes]] = OrderedDict()
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not _FILES.fullmatch(scope["path"]):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if any(name in headers for name in _PARTLY):
            return await self._app(scope, receive, send)
        taken = headers.get("accept-encoding", "")
        key = (scope["path"], next((name for name in _ENCODINGS if name in taken), ""))
        if key not in self._kept:
            found = await self._asked(scope)
            if found[0]["status"] == 200:
                self._keep(key, *found)
        else:
            found = self._kept[key]
            self._kept.move_to_end(key)
        start, body = found
        await send({**start, "headers": list(start["headers"])})
        await send({"type": "http.response.body", "body": body})

    async def _asked(self, scope: Scope) -> tuple[Message, bytes]:
        """What answers behind this, whole."""
        start, body = await whole_answer(self._app, scope)
        headers = MutableHeaders(raw=start["headers"])
        headers["content-length"] = str(len(body))
        if start["status"] == 200 and scope["path"].startswith(_HASHED):
            headers["cache-control"] = _KEEP
        return start, body

    def _keep(self, key: tuple[str, str], start: Message, body: bytes) -> None:
        """In the place of those that nobody has asked for longest."""
        former = self._kept.pop(key, None)
        self._bytes += len(body) - (len(former[1]) if former else 0)
        self._kept[key] = start, body
        while self._bytes > _MOST_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1][1])
