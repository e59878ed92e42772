"""Soak: twelve visitors drag, compare, read, export, cancel and hang up for ten minutes; every text is checked."""

from __future__ import annotations

import io
import itertools
import random
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..figure import Figure
from .outcome import Tally
from .requests import write_tiny
from .serving import PageError, Served, Visitor, fetched, served

CLIENTS, SECONDS, QUICK_CLIENTS, QUICK_SECONDS = 12, 600.0, 4, 6.0
_ACTIONS = ("drag", "compare", "read", "export", "cancel", "hang up")
_WEIGHTS = (6, 2, 1, 1, 2, 2)
_PROMPTS = ("The capital of Germany is called", "My grandfather told me that", "Two and two make")
_SIZES = (100, 80, 60, 40)  # %
_LENGTH = 24  # tokens
_TEXT = "The rain came in from the sea, and nobody had closed the windows of the old house."
_MOST_MEMORY = 1.05  # × after the second minute
_MINUTE = 60.0
_BUSY = "Somebody else's model is being written"  # an answer, not a mistake
_PATIENCE = 240.0  # seconds for one message, with everybody before
_REPORT = 15.0  # seconds between two lines of progress


@dataclass(frozen=True)
class _Right:
    """What a lone visitor gets."""

    texts: dict[tuple[str, int], str]
    sizes: tuple[int, ...]
    losses: dict[int, str]


@dataclass
class _Seen:
    """What one visitor's thread saw."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)


def run_soak(folder: Path, quick: bool = False) -> Tally:
    """The embedded default model, or a tiny one for a few seconds, where memory says nothing yet."""
    clients, seconds = (QUICK_CLIENTS, QUICK_SECONDS) if quick else (CLIENTS, SECONDS)
    tally = Tally("soak", _ACTIONS, 0)
    arguments = (str(folder / "tiny"), "--artifact", str(folder / "artifact")) if quick else ()
    if quick and (made := write_tiny(folder)):
        tally.fault(made)
        return tally
    with served(folder / "server", *arguments) as page:
        right = _alone(page, (100, 60) if quick else _SIZES)
        seen = [_Seen() for _ in range(clients)]
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=_visit, args=(page, right, number, end, one)) for number, one in enumerate(seen)
        ]
        for thread in threads:
            thread.start()
        memory = _watched(page, end - seconds, end, seen)
        for thread in threads:
            thread.join()
        log, alive = page.log, page.process.is_alive()
    for one in seen:
        tally.counts.update(one.done)
        tally.faults.update(one.wrong)
    if not alive:
        tally.fault("the server is gone")
    if tracebacks := log.count("Traceback"):
        tally.fault(f"tracebacks in the log, the last: {log.strip().splitlines()[-1][:160]}", tracebacks)
    if memory:
        ratio = memory[1] / memory[0]
        name = "memory after the last minute ÷ after the second"
        tally.measured.append(Figure(name, ratio, "×", _MOST_MEMORY))
        if ratio > _MOST_MEMORY:
            tally.fault(f"memory: {memory[0] / 1e6:.0f} MB after two minutes, {memory[1] / 1e6:.0f} MB at the end")
    return tally


def _alone(page: Served, sizes: tuple[int, ...]) -> _Right:
    visitor, texts = Visitor(page), {}
    for prompt, size in itertools.product(_PROMPTS, sizes):
        texts[prompt, size] = _text(visitor.last("complete", prompt, size, 0, 1, 0, _LENGTH, False))
    return _Right(texts, sizes, _losses(visitor.last("read", _TEXT, 100, seconds=_PATIENCE)))


def _watched(page: Served, began: float, end: float, seen: list[_Seen]) -> tuple[float, float] | None:
    """Mean memory of the seconds around the end of the second minute and of the last; None for a short run."""
    samples: list[tuple[float, int]] = []
    told = began
    while (now := time.monotonic()) < end and page.process.is_alive():
        samples.append((now - began, page.memory()))
        if now - told > _REPORT:
            told = now
            done, wrong = (
                sum(counts.total() for counts in part) for part in zip(*((s.done, s.wrong) for s in seen), strict=True)
            )
            print(
                f"soak: {now - began:.0f} s, {done:,} actions, {wrong:,} faults, {samples[-1][1] / 1e6:.0f} MB",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(1)
    if end - began < 4 * _MINUTE:
        return None
    early = [memory for at, memory in samples if 1.5 * _MINUTE < at <= 2 * _MINUTE]
    late = [memory for at, memory in samples if at > end - began - _MINUTE / 2]
    return sum(early) / len(early), sum(late) / len(late)


def _visit(page: Served, right: _Right, number: int, end: float, seen: _Seen) -> None:
    draw, visitor = random.Random(number), Visitor(page)
    acts: dict[str, Callable[[Visitor, _Right, random.Random], str]] = dict(
        zip(_ACTIONS, (_drag, _compare, _read, _export, _cancel, _hang_up), strict=True)
    )
    while time.monotonic() < end:
        action = draw.choices(_ACTIONS, _WEIGHTS)[0]
        try:
            wrong = acts[action](visitor, right, draw)
        except (PageError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            wrong = f"{type(error).__name__}: {str(error)[:200]}"
        if wrong:
            seen.wrong[f"{action}: {wrong}"] += 1
        else:
            seen.done[action] += 1
        if action == "hang up":
            visitor = Visitor(page)


def _drag(visitor: Visitor, right: _Right, draw: random.Random) -> str:
    """Let go at several sizes, each replacing the one before; the last text is read to its end."""
    prompt = draw.choice(_PROMPTS)
    *passed, last = draw.choices(right.sizes, k=draw.randint(1, 4))
    index = visitor.page.functions["completion.release"]
    for size in passed:
        visitor.join(index, [prompt, size, 0, 1, 0, _LENGTH, False])
        time.sleep(draw.uniform(0, 0.2))
    for message in visitor.ask("completion.release", prompt, last, 0, 1, 0, _LENGTH, False, seconds=_PATIENCE):
        if message["state"] in ("done", "error"):
            return _unlike(_text(message), right.texts[prompt, last])
    return "no end"


def _compare(visitor: Visitor, right: _Right, draw: random.Random) -> str:
    prompt, sizes = draw.choice(_PROMPTS), draw.sample(right.sizes, 2)
    message = visitor.last("compare", prompt, sizes, 0, 1, 0, _LENGTH, False, seconds=_PATIENCE)
    if message["state"] != "done":
        return f"{message['state']}: {message['status']}"
    texts = {column["percent"]: "".join(token for token, _ in column["tokens"]) for column in message["columns"]}
    return next(filter(None, (_unlike(texts.get(size, ""), right.texts[prompt, size]) for size in sizes)), "")


def _read(visitor: Visitor, right: _Right, _: random.Random) -> str:
    losses = _losses(visitor.last("read", _TEXT, 100, seconds=_PATIENCE))
    return (
        ""
        if losses == right.losses
        else f"other losses at {sorted(k for k in right.losses if losses.get(k) != right.losses[k])}"
    )


def _export(visitor: Visitor, right: _Right, draw: random.Random) -> str:
    message = visitor.last("export", draw.choice(right.sizes), seconds=_PATIENCE)
    if message["state"] != "done":
        return "" if _BUSY in message["status"] else f"{message['state']}: {message['status']}"
    status, body = fetched(visitor.page.port, f"/{message['address']}", seconds=_PATIENCE)
    if status == 404:
        return ""  # three newer ones have taken its place
    names = zipfile.ZipFile(io.BytesIO(body)).namelist()
    return "" if any(name.endswith("/config.json") for name in names) else f"{status}, a ZIP file of {names}"


def _cancel(visitor: Visitor, right: _Right, draw: random.Random) -> str:
    state = ""
    with closing(
        visitor.ask("complete", draw.choice(_PROMPTS), 100, 0, 1, 0, 200, False, seconds=_PATIENCE)
    ) as messages:
        for number, message in enumerate(messages):
            state = message["state"]
            if number == 2:
                visitor.stop("stop")
    return "" if state in ("stopped", "done") else f"the stopped completion is {state}"


def _hang_up(visitor: Visitor, right: _Right, draw: random.Random) -> str:
    """Go away in the middle of something."""
    function, values = draw.choice(
        (
            ("completion.release", (draw.choice(_PROMPTS), 60, 0, 1, 0, 100, False)),
            ("read", (_TEXT, 60)),
            ("export", (60,)),
        )
    )
    with closing(visitor.ask(function, *values, seconds=_PATIENCE)) as messages:
        for _ in itertools.islice(messages, 3):
            pass
    return ""


def _text(message: dict[str, Any]) -> str:
    return message["text"] if message.get("state") == "done" else f"{message.get('state')}: {message.get('status')}"


def _losses(message: dict[str, Any]) -> dict[int, str]:
    return {size["percent"]: size["losses"] for size in message.get("sizes", ())}


def _unlike(text: str, expected: str) -> str:
    return "" if text == expected else f"{text[-80:]!r} instead of {expected[-80:]!r}"
