"""An end for the frames that Gradio's sign of loading asks for.

It counts seconds in every frame while it waits. The one that stands in for the whole page is taken away before it hears
that the waiting is over, and counted on for as long as the page was open: a tenth of a core of every visitor's.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from .whole_answer import whole_answer

_FILE = re.compile(r"/assets/statustracker-[^/]+\.js")
_NEXT = re.compile(rb"(performance\.now\(\)-[^;{}]{0,24}/1e3\),\w+&&)(\w+\(\))")
_WAITS = re.compile(rb"(\w+\.status===`pending`)\?\w+\(\)")


class EndingFrames:
    """ASGI middleware that has the next frame asked for only while there is something to wait for."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _FILE.fullmatch(scope["path"]):
            return await self._app(scope, receive, send)
        start, body = await whole_answer(self._app, scope)
        if "content-encoding" not in Headers(raw=start["headers"]) and (waits := _WAITS.search(body)):
            body = _NEXT.sub(lambda found: found[1] + waits[1] + b"&&" + found[2], body)
            MutableHeaders(raw=start["headers"])["content-length"] = str(len(body))
        await send(start)
        await send({"type": "http.response.body", "body": body})
