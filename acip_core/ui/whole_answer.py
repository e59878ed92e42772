"""An answer of an ASGI application as a whole, for middleware that changes or keeps it."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Scope


async def whole_answer(app: ASGIApp, scope: Scope) -> tuple[Message, bytes]:
    """The message that starts the answer to a request without a body, and the answer's own.

    The application is not told when the client leaves: some answers would then never start.
    """
    start: Message = {}
    body, asked = bytearray(), False

    async def receive() -> Message:
        nonlocal asked
        if asked:
            await asyncio.Future()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def gather(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
        body.extend(message.get("body", b""))

    await app(scope, receive, gather)
    return start, bytes(body)
