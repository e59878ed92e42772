"""Twenty visitors at once, each through the real `gradio_client`: right texts, fair shares, quick readouts, memory."""

from __future__ import annotations

import itertools
import random
import threading
import time
from dataclasses import dataclass, field

from gradio_client import Client
from gradio_client.client import Job

from .browser import await_codes, chromium, opened, served
from .figure import Figure
from .page import DRAG

_VISITORS, _SECONDS, _NEW = 20, 120.0, 24
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
    """Two minutes of dragging and generating; every finished text must be the one that a lone visitor gets."""
    with served() as server, chromium() as browser:
        alone = Client(server.address, verbose=False)
        began = time.monotonic()
        answers = [_complete(alone, request) for request in _REQUESTS]
        lone_rate = sum(tokens for _, tokens in answers) / (time.monotonic() - began)
        expected = {request: text for request, (text, _) in zip(_REQUESTS, answers, strict=True)}
        await_codes(server.address)
        page = opened(browser, server.address, link="size=100&mode=directions")
        before, end = server.memory(), time.monotonic() + _SECONDS
        visitors = [_Visitor() for _ in range(_VISITORS)]
        threads = [
            threading.Thread(target=_visit, args=(server.address, expected, seed, end, visitor))
            for seed, visitor in enumerate(visitors)
        ]
        for thread in threads:
            thread.start()
        readouts: list[float] = []
        while time.monotonic() < end:
            readouts += page.evaluate(DRAG)
        for thread in threads:
            thread.join()
        page.close()
        time.sleep(5)  # what visitors leave behind is cleared when their connections end
        after = server.memory()
    tokens = [visitor.tokens for visitor in visitors]
    together = sum(tokens) / _SECONDS / lone_rate
    wrong = [sentence for visitor in visitors for sentence in visitor.wrong]
    for sentence in wrong[:5]:
        print(sentence)
    who = f"{_VISITORS} visitors at once"
    slowest = min(tokens) * _VISITORS / sum(tokens)
    return [
        Figure(f"{who}: texts that failed or differ from a lone visitor's", len(wrong), "", 0),
        Figure(f"{who}: the slowest one's tokens ÷ the mean", slowest, "×", 0.33, better="higher"),
        Figure(f"{who}: tokens per second of all ÷ a lone visitor's", together, "×", _OF_ONE, better="higher"),
        Figure(f"{who}: the slowest readout of a drag, painted", max(readouts), "ms", 300),
        Figure(f"{who}: the server's memory afterwards ÷ before", after / before, "×", 1.1),
    ]


def _visit(address: str, expected: dict[Request, str], seed: int, end: float, visitor: _Visitor) -> None:
    """Drag (every request but the last is replaced while it runs) and read what comes, until the time is over."""
    draw, client = random.Random(seed), Client(address, verbose=False)
    while time.monotonic() < end:
        *passed, last = draw.choices(_REQUESTS, k=draw.choice((1, 1, 2, 4)))
        for request in passed:
            next(_submit(client, request))  # it has begun
            time.sleep(draw.uniform(0, 0.2))
        text, tokens = _complete(client, last)
        if text == expected[last]:
            visitor.tokens += tokens
        else:
            visitor.wrong.append(f"{last}: {text!r} instead of {expected[last]!r}")


def _submit(client: Client, request: Request) -> Job:
    prompt, percent, (temperature, top_p, seed) = request
    return client.submit(prompt, percent, temperature, top_p, seed, _NEW, False, "directions", api_name="/complete")


def _complete(client: Client, request: Request) -> tuple[str, int]:
    """The finished text, or what went wrong, and its tokens."""
    last = _submit(client, request).result()
    if last["state"] != "done":
        return f"{last['state']}: {last['status']}", 0
    return last["text"], int(last["status"].split()[0])
