"""Files of the page that are read and compressed once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from acip_core.ui import kept_answers
from acip_core.ui.kept_answers import KeptAnswers


class Counting:
    """Answers with what was asked, and remembers it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = Request(scope).url.path
        self.asked.append(path)
        headers = {"content-encoding": "br"} if "br" in Request(scope).headers.get("accept-encoding", "") else {}
        status = 404 if "none" in path else 200
        await Response(path.encode() * 40, status, headers)(scope, receive, send)


async def ask(app: KeptAnswers, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    named = {"accept-encoding": "identity", **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        request = client.build_request(method, path, headers=named)
        return await client.send(request, stream=True)


def test_a_file_is_asked_for_once_in_each_encoding() -> None:
    behind = Counting()
    app = KeptAnswers(behind)

    async def visits() -> None:
        for taken in ("gzip, br", "br;q=1.0, gzip", "identity", ""):
            answer = await ask(app, "/assets/a.js", accept_encoding=taken)
            assert answer.headers.get("content-encoding") == ("br" if "br" in taken else None)
            assert "immutable" in answer.headers["cache-control"]
            assert [part async for part in answer.aiter_raw()] == [b"/assets/a.js" * 40]
        assert behind.asked == ["/assets/a.js"] * 2
        for path, method in (("/assets/none.js", "GET"), ("/config", "GET"), ("/", "GET"), ("/assets/a.js", "HEAD")):
            behind.asked.clear()
            for _ in range(2):
                await ask(app, path, method)
            assert behind.asked == [path] * 2
        behind.asked.clear()
        for name in ("range", "if_none_match"):
            await ask(app, "/assets/a.js", **{name: "x"})
        assert len(behind.asked) == 2

    asyncio.run(visits())


def test_what_nobody_asked_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_answers, "_MOST_BYTES", 3 * 40 * len("/assets/0"))
    behind = Counting()
    app = KeptAnswers(behind)

    async def visits() -> None:
        for name in "0123":  # one more than there is room for
            await ask(app, f"/assets/{name}")
        behind.asked.clear()
        for name in "3210":
            await ask(app, f"/assets/{name}")
        assert behind.asked == ["/assets/0"]

    asyncio.run(visits())


def test_a_file_whose_first_visitor_left_is_there_for_the_next() -> None:
    sent: list[Message] = []

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(parts(), headers={"content-type": "text/javascript"})(scope, receive, send)

    async def parts() -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        yield b"a file"

    async def left() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = KeptAnswers(behind)
    scope = {"type": "http", "method": "GET", "path": "/assets/a.js", "headers": [], "asgi": {"spec_version": "2.3"}}
    asyncio.run(app(scope, left, send))
    assert [message.get("body") for message in sent] == [None, b"a file"]

    async def next_one() -> bytes:
        return b"".join([part async for part in (await ask(app, "/assets/a.js")).aiter_raw()])

    assert asyncio.run(next_one()) == b"a file"
