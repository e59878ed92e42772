"""An answer of an ASGI application as a whole, for middleware that changes or keeps it."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope


async def whole_answer(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    """The message that starts the answer, and its body."""
    start: Message = {}
    body = bytearray()

    async def gather(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
        body.extend(message.get("body", b""))

    await app(scope, receive, gather)
    return start, bytes(body)
