"""Twenty visitors at once: right texts, fair shares, quick readouts, memory.

They ask as a page does, by Gradio's queue, and read what comes; `gradio_client` takes twice the server's time for that.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from .browser import await_codes, chromium, opened, served
from .figure import Figure
from .page import DRAG

_VISITORS, _SECONDS, _NEW = 20, 60.0, 24
_PROMPTS = ("The capital of Germany is called", "Once upon a time", "The three primary colours are")
_OF_ONE = 2.5  # times a lone visitor's rate, of all together
_SIZES = (100, 80, 60, 40)  # %
_SAMPLING = ((0.0, 1.0, 0), (0.8, 0.9, 7))  # temperature, top-p, seed
Request = tuple[str, int, tuple[float, float, int]]
_REQUESTS: list[Request] = list(itertools.product(_PROMPTS, _SIZES, _SAMPLING))


@dataclass
class _Visitor:
    """What one visitor saw."""

    tokens: int = 0
    wrong: list[str] = field(default_factory=list)


def measure_visitors() -> list[Figure]:
    """A minute of texts, and one of texts beside a drag; every finished text must be the one that a lone visitor gets.

    The rates are those of the first minute: the lone visitor has no browser beside them either, and one that drags
    takes most of a core from the server, which no visitor's browser does from elsewhere.
    """
    with served() as server, chromium() as browser:
        await_codes(server.address)
        alone = _Client(server.address, "alone")
        began = time.monotonic()
        answers = [alone.complete(request) for request in _REQUESTS]
        lone_rate = sum(tokens for _, tokens in answers) / (time.monotonic() - began)
        expected = {request: text for request, (text, _) in zip(_REQUESTS, answers, strict=True)}
        page = opened(browser, server.address, link="size=100&mode=directions")
        before, end = server.memory(), time.monotonic() + 2 * _SECONDS
        visitors = [_Visitor() for _ in range(_VISITORS)]
        threads = [
            threading.Thread(target=_visit, args=(server.address, expected, seed, end, visitor))
            for seed, visitor in enumerate(visitors)
        ]
        for thread in threads:
            thread.start()
        time.sleep(_SECONDS)
        rate = sum(visitor.tokens for visitor in visitors) / _SECONDS
        readouts: list[float] = []
        while time.monotonic() < end:
            readouts += page.evaluate(DRAG)
        for thread in threads:
            thread.join()
        page.close()
        time.sleep(5)  # what visitors leave behind is cleared when their connections end
        after = server.memory()
    tokens = [visitor.tokens for visitor in visitors]
    wrong = [sentence for visitor in visitors for sentence in visitor.wrong]
    for sentence in wrong[:5]:
        print(sentence)
    who = f"{_VISITORS} visitors at once"
    slowest = min(tokens) * _VISITORS / sum(tokens)
    return [
        Figure(f"{who}: texts that failed or differ from a lone visitor's", len(wrong), "", 0),
        Figure(f"{who}: the slowest one's tokens ÷ the mean", slowest, "×", 0.33, better="higher"),
        Figure(f"{who}: tokens per second of all ÷ a lone visitor's", rate / lone_rate, "×", _OF_ONE, better="higher"),
        Figure(f"{who}: the slowest readout of a drag, painted", max(readouts), "ms", 300),
        Figure(f"{who}: the server's memory afterwards ÷ before", after / before, "×", 1.1),
    ]


def _visit(address: str, expected: dict[Request, str], seed: int, end: float, visitor: _Visitor) -> None:
    """Drag (every request but the last is replaced while it runs) and read what comes, until the time is over."""
    draw, client = random.Random(seed), _Client(address, f"visitor{seed}")
    while time.monotonic() < end:
        *passed, last = draw.choices(_REQUESTS, k=draw.choice((1, 1, 2, 4)))
        for request in passed:
            client.begin(request)
            time.sleep(draw.uniform(0, 0.2))
        text, tokens = client.complete(last)
        if text == expected[last]:
            visitor.tokens += tokens
        else:
            visitor.wrong.append(f"{last}: {text!r} instead of {expected[last]!r}")


class _Client:
    """Somebody with the page open, who makes one request after another."""

    def __init__(self, address: str, session: str):
        self._http, self._session = httpx.Client(base_url=f"{address}gradio_api/", timeout=None), session
        functions = httpx.get(f"{address}config").json()["dependencies"]
        self._function = next(each["id"] for each in functions if each["api_name"] == "complete")
        self._messages: Iterator[dict[str, Any]] = iter(())

    def begin(self, request: Request) -> str:
        """Ask, which replaces what was asked for before, and wait for the first message; returns the request's id."""
        prompt, percent, (temperature, top_p, seed) = request
        data = [prompt, percent, temperature, top_p, seed, _NEW, False, "directions", 1.0]
        call = {"session_hash": self._session, "fn_index": self._function, "data": data}
        answer = self._http.post("queue/join", json=call).raise_for_status()
        id = str(answer.json()["event_id"])
        self._await(id, "process_generating")
        return id

    def complete(self, request: Request) -> tuple[str, int]:
        """The finished text, or what went wrong, and its tokens."""
        last = self._await(self.begin(request), "process_completed")["output"]["data"][0]
        if last["state"] != "done":
            return f"{last['state']}: {last['status']}", 0
        return last["text"], int(last["status"].split()[0])

    def _await(self, id: str, kind: str) -> dict[str, Any]:
        """The next message of a kind about a request."""
        while True:  # a stream ends with the last request that was known meanwhile
            for message in self._messages:
                if (message.get("event_id"), message["msg"]) == (id, kind):
                    return message
            self._messages = self._stream()

    def _stream(self) -> Iterator[dict[str, Any]]:
        with self._http.stream("GET", "queue/data", params={"session_hash": self._session}) as answer:
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])
