"""Hostile requests against the real page: it lives on, shows nothing of its machine, and serves the next visitor."""

from __future__ import annotations

import os
import random
import re
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from . import models
from .hostile import KINDS, Request, http
from .outcome import Tally
from .serving import API, HOST, ROOT, PageError, Served, Visitor, served
from .trial import forked

REQUESTS, QUICK_REQUESTS = 1000, 60
_OUTCOMES = ("refused", "answered", "hung up")
_EVERY = 25  # requests between two visits of somebody who means well
_SECONDS = 20.0  # until a request counts as never answered
_HELD = 12  # silent connections at a time
_DISK, _MEMORY = 4_000_000, 64_000_000  # bytes of growth: three tiny exports are kept, and freed memory is reused
_BUSY = 15.0  # seconds for the runs of those who do not listen
_MOST_READ = 4_000_000  # bytes of an answer
_PLACES = ("/etc/passwd", "root:x:0")
_NEVER = re.compile(rb"^HTTP/1\.[01] (500|502|504)")


def run_requests(folder: Path, quick: bool = False) -> Tally:
    """All kinds in random order; a visitor comes between them and must find what the first one found."""
    count, draw = QUICK_REQUESTS if quick else REQUESTS, random.Random(21)
    tally = Tally("hostile requests", _OUTCOMES, count)
    if wrong := write_tiny(folder):
        tally.fault(wrong, count)
        return tally
    arguments = (str(folder / "tiny"), "--artifact", str(folder / "artifact"))
    with served(folder / "server", *arguments) as page:
        first = _visit(page, "a first visitor says")
        kinds = [name for name in KINDS for _ in range(-(-count // len(KINDS)))][:count]
        draw.shuffle(kinds)
        silent: deque[socket.socket] = deque()
        told, memory, disk = 0, 0, 0
        for number, name in enumerate(kinds):
            if number == count // 5:  # what is made once is made
                memory, disk = page.memory(), page.disk()
            outcome = _sent(page, KINDS[name](page, draw), silent)
            tracebacks = page.log.count("Traceback")
            if not page.process.is_alive():
                tally.fault(f"{name}: the server is gone", count - number)
                return tally
            if tracebacks > told:
                told, outcome = tracebacks, f"a traceback in the log: {_last_error(page.log)}"
            if outcome in _OUTCOMES:
                tally.add(outcome)
            else:
                tally.fault(f"{name}: {outcome}")
            if number % _EVERY == _EVERY - 1 and (wrong := _visited(page, first, number)):
                tally.fault(f"a visitor after request {number + 1}: {wrong}")
        for connection in silent:
            connection.close()
        for what, grown, most in (("memory", page.memory() - memory, _MEMORY), ("disk", page.disk() - disk, _DISK)):
            if grown > most:
                tally.fault(f"{what} grew by {grown / 1e6:.0f} MB")
    return tally


def write_tiny(folder: Path) -> str:
    """A model and its artifact for a page, made in a process of its own; what went wrong, or nothing."""

    def made() -> None:
        models.write_model(folder / "tiny")
        models.write_text(folder / "text.txt")
        models.write_artifact(folder / "tiny", folder / "text.txt", folder / "artifact")

    os.environ["ACIP_CACHE"] = str(folder / "cache")
    ended = forked(made)
    return "" if ended.how == "returned" else f"what the page shows cannot be made: {ended.told}"


def _sent(page: Served, request: Request, silent: deque[socket.socket]) -> str:
    """The outcome, or what is wrong."""
    try:
        connection = socket.create_connection((HOST, page.port), timeout=_SECONDS)
    except OSError as error:
        return f"no connection: {error}"
    with suppress(OSError):  # it need not read to the end
        connection.sendall(request.data)
    if not request.whole:
        silent.append(connection)
        if len(silent) > _HELD:
            silent.popleft().close()
        return _OUTCOMES[2]
    with connection:
        answer = _read(connection)
    if answer is None:
        return f"no answer within {_SECONDS:.0f} s"
    if request.session and answer.startswith(b"HTTP/1.1 200") and b'"event_id"' in answer:
        with socket.create_connection((HOST, page.port), timeout=_SECONDS) as listening:
            listening.sendall(http("GET", f"{API}/queue/data?session_hash={request.session}"))
            more = _read(listening)
        if more is None:
            return f"a run without end in {_SECONDS:.0f} s"
        answer += more
    return _judged(answer)


def _read(connection: socket.socket) -> bytes | None:
    """All that comes until the other side closes; None when it never does."""
    parts: list[bytes] = []
    size, deadline = 0, time.monotonic() + _SECONDS
    try:
        while size < _MOST_READ and time.monotonic() < deadline:
            part = connection.recv(65_536)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
            if b'"close_stream"' in part:
                return b"".join(parts)
    except TimeoutError:
        return None
    except OSError:
        return b"".join(parts)
    return None


def _judged(answer: bytes) -> str:
    if not answer:
        return _OUTCOMES[2]
    if _NEVER.match(answer):
        return f"answered {answer[9:12].decode()}"
    content = answer.decode("utf-8", "replace")
    for place in (str(ROOT), sys.prefix, os.path.expanduser("~") + "/", "site-packages", _PLACES[1]):
        if place in content and place != "//":
            return f"the answer shows {'/etc/passwd' if place == _PLACES[1] else 'a place on the server'}"
    failed = b'"success":false' in answer or b'"state":"error"' in answer
    return _OUTCOMES[1] if answer[9:10] in b"23" and not failed else _OUTCOMES[0]


def _visit(page: Served, prompt: str) -> tuple[str, int]:
    """A known text, and at how many sizes a new prompt is written at once."""
    visitor = Visitor(page)
    text = visitor.last("complete", models.EXAMPLE, 80, 0, 1, 0, 16, False, seconds=60).get("text", "")
    sizes = 0
    for message in visitor.ask("completion.release", prompt, 100, 0, 1, 0, 8, False, seconds=60):
        sizes = max(sizes, len(message.get("ready", ())))
        if message["state"] == "done":
            break
        if message["state"] == "error":
            raise PageError(message["status"])
    return text, sizes


def _visited(page: Served, first: tuple[str, int], number: int) -> str:
    """What a visitor finds wrong, once the runs of those before are over; empty for nothing."""
    deadline, attempt, wrong = time.monotonic() + _BUSY, 0, ""
    while time.monotonic() < deadline:
        try:
            text, sizes = _visit(page, f"visitor {number}, {attempt}")
        except PageError as error:
            wrong = str(error)
        else:
            if text != first[0]:
                return f"{text!r} instead of {first[0]!r}"
            if sizes >= first[1]:
                return ""
            wrong = f"{sizes} sizes instead of {first[1]}"
        attempt += 1
        time.sleep(0.5)
    return wrong


def _last_error(log: str) -> str:
    lines = [line for line in log.splitlines() if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt)\b", line)]
    return lines[-1][:160] if lines else "?"
