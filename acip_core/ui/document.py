"""The HTML that a browser gets first: the page's own preview tags and a first paint in place of Gradio's.

Gradio sends an empty element and fills it with scripts, one component after another; until they all stand, visitors
read a picture of the page's upper part, with texts that are known beforehand. `assets/js/first_paint.js` takes it away.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import escape
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from .whole_answer import whole_answer

PREVIEW_ROUTE = "acip/preview.png"
_LEVEL = 5  # of compression: 200 KB become 30 in 5 ms
_TAGS = re.compile(r'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*')
_MANIFEST = re.compile(r'<link\s+rel="manifest"[^>]*>\s*')  # of an app to install; the gate knows none
_HEAD, _BASE, _BODY = "<head>", re.compile(r"<base\b[^>]*>"), re.compile(r"<body[^>]*>")


@dataclass(frozen=True)
class Document:
    """What the page's HTML says of its own.

    Attributes:
        title, description: for previews of its link.
        head: more of its head. Gradio would add it by script, half a second later.
        first: gives the HTML of the first paint, which changes with what can be spent.
    """

    title: str
    description: str
    head: str
    first: Callable[[], str]


class Rewriting:
    """ASGI middleware that rewrites the page itself and nothing else."""

    def __init__(self, app: ASGIApp, document: Document):
        self._app, self._document = app, document

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            return await self._app(scope, receive, send)
        start, whole = await whole_answer(self._app, scope)
        if Headers(raw=start["headers"]).get("content-type", "").startswith("text/html"):
            whole = self._rewritten(whole.decode(), Request(scope)).encode()
            headers = MutableHeaders(raw=start["headers"])
            if "gzip" in Headers(scope=scope).get("accept-encoding", ""):
                whole = gzip.compress(whole, _LEVEL)
                headers["content-encoding"] = "gzip"
            headers.add_vary_header("Accept-Encoding")
            headers["content-length"] = str(len(whole))
        await send(start)
        await send({"type": "http.response.body", "body": whole})

    def _rewritten(self, html: str, request: Request) -> str:
        html = _MANIFEST.sub("", _TAGS.sub("", html))
        html = html.replace(_HEAD, _HEAD + self._tags(_address(request)), 1)
        html = _BASE.sub(lambda base: base[0] + self._document.head, html, count=1)  # its addresses are relative
        return _BODY.sub(lambda body: body[0] + self._document.first(), html, count=1)

    def _tags(self, address: str) -> str:
        """What other sites show of a link to this page; their readers need absolute addresses."""
        open_graph = {
            "type": "website",
            "title": self._document.title,
            "description": self._document.description,
            "url": address,
            "image": address + PREVIEW_ROUTE,
        }
        named = {"description": self._document.description, "twitter:card": "summary_large_image"}
        return "".join(
            [
                *(f'<meta property="og:{name}" content="{escape(value)}">' for name, value in open_graph.items()),
                *(f'<meta name="{name}" content="{escape(value)}">' for name, value in named.items()),
            ]
        )


def _address(request: Request) -> str:
    """The page's own, as the visitor's browser knows it; a proxy says by which protocol."""
    scheme = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
    host = request.headers.get("x-forwarded-host", "").partition(",")[0].strip()  # checked by the gate, as Host is
    url = request.url.replace(query="", fragment="")
    if scheme in ("http", "https"):
        url = url.replace(scheme=scheme)
    return str(url.replace(netloc=host) if host else url)
