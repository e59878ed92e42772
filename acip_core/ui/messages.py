"""The words and figures of the messages that the browser is told while something runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from ..evaluation.methods import corpus_color, corpus_title
from ..evaluation.perplexity import Perplexity
from ..generation.tokens import Token, TokenSteps
from .columns import Column

Message = dict[str, Any]
FRAME_SECONDS = 0.04  # on a fast device several tokens travel together
_CHART_SECONDS = 0.1
T = TypeVar("T")
_WORTH_TELLING = 2.0  # seconds
_FINISH = {"end": "finished", "length": "length reached", "stopped": "stopped"}


def frames(steps: TokenSteps, sizes: Sequence[float], known: str | None = None) -> Iterator[Message]:
    """Texts so far, each with whether it is complete, and the first one's status.

    At most every few hundredths of a second, first and last steps always.

    Args:
        sizes: in percent, of the texts.
        known: the first one's text as it was made before; the status says whether it comes out the same.
    """
    ready: dict[float, tuple[str, bool]] = dict.fromkeys(sizes, ("", False))
    first, shown, state, status, read = time.monotonic(), 0.0, "running", "", 0.0
    for step in steps:
        now = time.monotonic()
        for i, part in step.items():
            ready[sizes[i]] = (ready[sizes[i]][0] + part.text, part.finish not in ("", "stopped"))
        token = step.get(0)
        if token:
            first = now if token.count == 1 or token.ahead else first
            state = "running" if not token.finish else "stopped" if token.finish == "stopped" else "done"
            status = token_status(token, now - first)
            read = 1.0 if token.finish else token.prompt_read / max(1, token.prompt_tokens)
            if known is not None and token.count:
                status += _beside(known, ready[sizes[0]][0], state == "done")
        ended = any(part.finish for part in step.values())
        if ended or (token and token.count <= 1) or now - shown >= FRAME_SECONDS:
            shown = now
            yield {"text": ready[sizes[0]][0], "state": state, "status": status, "ready": dict(ready), "read": read}


def thinned(updates: Iterator[T]) -> Iterator[T]:
    """Those of the updates that a chart can be drawn anew for; faster ones would leave a browser no time for clicks."""
    shown = -_CHART_SECONDS
    for update in updates:
        if (now := time.monotonic()) - shown >= _CHART_SECONDS:
            shown = now
            yield update


def _beside(known: str, text: str, finished: bool) -> str:
    """What a text that is written anew says of the one that is known."""
    if finished:
        return " · as before" if text == known else " · not as before"
    return " · the same so far" if known.startswith(text) else " · differs"


def columns_shown(columns: Sequence[Column], full: Column) -> list[Message]:
    """Texts side by side, each beside that of the full model."""
    return [column.message(full) for column in columns]


def token_status(step: Token, seconds: float) -> str:
    """Where a stream is.

    Args:
        seconds: since its first token, or since its prompt began to be read.
    """
    if step.ahead and not step.finish:
        return f"busy, {step.ahead} ahead"
    if step.count == 0 and not step.finish:
        left = seconds / max(1, step.prompt_read) * (step.prompt_tokens - step.prompt_read)
        about = f", about {left:.0f} s" if left >= _WORTH_TELLING else ""
        # A phone has no room for the end of it.
        return f"reading the prompt{about}, {step.prompt_read:,} of {step.prompt_tokens:,} tokens"
    parts = [counted(step.count, "token")]
    if step.count > 1 and seconds > 0:
        speed = (step.count - 1) / seconds
        parts.append(f"{speed:.1f} tokens/s" if speed < 100 else f"{speed:,.0f} tokens/s")
    if step.finish:
        parts.append(_FINISH[step.finish])
    return " · ".join(parts)


def counted(count: int, thing: str) -> str:
    """A number with its thing, in the plural but for one."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def reading_status(sizes: list[Message], named: str, total: int, pieces: list[str]) -> str:
    """How far a text of the visitor's own is read, and at how many of the sizes."""
    read = len(sizes[-1]["losses"].split())
    return f"Reading at {named}: {read:,} of {len(pieces):,} tokens, size {len(sizes)} of {total}"


def measurement(named: str, found: dict[str, Perplexity], state: str, total: int, window: int) -> Message:
    """What the chart shows of a measurement, while it runs and afterwards."""
    points = [
        {"corpus": corpus, "title": corpus_title(corpus), "color": corpus_color(corpus), "value": p.value}
        | {"low": p.low, "high": p.high, "done": p.done, "total": p.total}
        for corpus, p in found.items()
    ]
    done = sum(p.done for p in found.values())
    head = {"running": "Measuring", "done": "Measured", "stopped": "Stopped measuring"}[state]
    values = [f"{corpus_title(corpus)} {_with_error(p)}" for corpus, p in found.items()]
    windows = f"{done} of {total} windows" if state != "done" else f"{done} windows of {window} tokens"
    return {"points": points, "state": state, "status": f"{head} {named}: {' · '.join([*values, windows])}"}


def _with_error(perplexity: Perplexity) -> str:
    if perplexity.done < 2:
        return f"{perplexity.value:.4g}"
    return f"{perplexity.value:.4g} ± {(perplexity.high - perplexity.low) / 2:.2g}"
