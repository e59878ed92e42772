"""What happens when a visitor asks for a completion or a measurement: generators of messages for the browser.

A message is a plain dictionary that `assets/page.js` reads; it names its run and its size, so that the page can drop
what belongs to an older run. The completion's text travels as text and is never put together into markup.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import gradio as gr
import torch

from ..corpus import documents, token_windows
from ..errors import AcipError
from ..evaluate import WINDOW, Perplexity
from ..generate import Engine, Sampling, Token
from ..loading import Loaded
from .chart import corpus_color, corpus_title
from .table import own_curves, plan_at
from .visitors import Run, Visitors

Message = dict[str, Any]
COMPLETION, MEASUREMENT = "completion", "measurement"
MEASURED_WINDOWS = 16  # per corpus, as many as the measured curve at least has
_FRAME_SECONDS = 0.04  # on a fast device several tokens travel together
_FINISH = {"end": "finished", "length": "length reached", "stopped": "stopped"}


class Handlers:
    """The page's server side: one engine, all visitors."""

    def __init__(self, loaded: Loaded):
        self.engine = Engine(loaded.elastic)
        self.visitors = Visitors()
        self._planner = loaded.elastic.planner
        self._corpora = [curve.corpus for curve in own_curves(loaded.artifact.curves)] or ["c4", "wikipedia"]
        self._windows = lru_cache(maxsize=None)(self._read_windows)

    def complete(
        self,
        prompt: str,
        percent: float,
        temperature: float,
        top_p: float,
        seed: float,
        length: float,
        chat: bool,
        request: gr.Request,
    ) -> Iterator[Message]:
        """Stream a completion at a slider position, replacing the visitor's former one."""
        session = _session(request)
        run = self.visitors.begin(session, COMPLETION)
        used, plan = plan_at(self._planner, percent)
        fixed = {"run": run.id, "percent": used, "prompt": "" if chat else prompt or ""}
        try:
            yield fixed | {"text": "", "state": "running", "status": "starting"}
            sampling = Sampling(temperature, top_p, _whole(seed), _whole(length))
            steps = self.engine.stream(prompt, plan, sampling, run.cancel, chat)
            for update in _frames(steps):
                if not self.visitors.is_newest(session, COMPLETION, run):
                    return
                yield fixed | update
        except Exception as error:
            sentence = _sentence(error)
            gr.Warning(sentence, title="Not completed")
            yield fixed | {"text": "", "state": "error", "status": sentence}
        finally:
            self.visitors.end(session, COMPLETION, run)

    def measure(self, percent: float, request: gr.Request) -> Iterator[Message]:
        """Measure perplexity at a slider position on held-out text, window by window, corpora in turn."""
        session = _session(request)
        run = self.visitors.begin(session, MEASUREMENT)
        used, plan = plan_at(self._planner, percent)
        fixed = {"run": run.id, "percent": used, "ratio": plan.ratio}
        found: dict[str, Perplexity] = {}
        try:
            yield fixed | {"points": [], "state": "running", "status": f"Measuring {used} %: reading held-out text …"}
            streams = [self._measure_corpus(corpus, plan, run) for corpus in self._corpora]
            for step in (pair for round in zip_longest(*streams) for pair in round if pair is not None):
                found[step[0]] = step[1]
                if not self.visitors.is_newest(session, MEASUREMENT, run):
                    return
                yield fixed | _measurement(used, found, "running", self._total_windows())
            yield fixed | _measurement(used, found, "stopped" if run.cancel.is_set() else "done", self._total_windows())
        except Exception as error:
            gr.Warning(_sentence(error), title="Not measured")
            yield fixed | _measurement(used, found, "error", self._total_windows())
        finally:
            self.visitors.end(session, MEASUREMENT, run)

    def stop(self, request: gr.Request) -> None:
        """Stop the visitor's completion within one token."""
        self.visitors.stop(_session(request), COMPLETION)

    def stop_measuring(self, request: gr.Request) -> None:
        """Stop the visitor's measurement within one slice of a window; what was measured stays."""
        self.visitors.stop(_session(request), MEASUREMENT)

    def leave(self, request: gr.Request) -> None:
        """The visitor closed the page."""
        self.visitors.leave(_session(request))

    def _measure_corpus(self, corpus: str, plan: Any, run: Run) -> Iterator[tuple[str, Perplexity]]:
        for value in self.engine.measure(self._windows(corpus), plan, run.cancel):
            yield corpus, value

    def _read_windows(self, corpus: str) -> torch.Tensor:
        texts = documents(corpus, "held-out")
        return token_windows(self.engine.elastic.tokenizer, texts, WINDOW, MEASURED_WINDOWS)

    def _total_windows(self) -> int:
        return MEASURED_WINDOWS * len(self._corpora)


def _frames(steps: Iterator[Token]) -> Iterator[Message]:
    """Text so far with its status, at most every few hundredths of a second, the first and last step always."""
    text, first, shown = "", 0.0, 0.0
    for step in steps:
        now = time.monotonic()
        text += step.text
        if step.count == 1:
            first = now
        if step.finish or step.count <= 1 or now - shown >= _FRAME_SECONDS:
            shown = now
            state = "running" if not step.finish else "stopped" if step.finish == "stopped" else "done"
            yield {"text": text, "state": state, "status": _status(step, now - first)}


def _status(step: Token, seconds: float) -> str:
    if step.ahead and not step.finish:
        return f"busy, {step.ahead} ahead"
    if step.count == 0 and not step.finish:
        return f"reading the prompt, {step.prompt_read:,} of {step.prompt_tokens:,} tokens"
    parts = [f"{step.count} token{'' if step.count == 1 else 's'}"]
    if step.count > 1 and seconds > 0:
        parts.append(f"{(step.count - 1) / seconds:.1f} tokens/s")
    if step.finish:
        parts.append(_FINISH[step.finish])
    return " · ".join(parts)


def _measurement(percent: int, found: dict[str, Perplexity], state: str, total: int) -> Message:
    points = [
        {"corpus": corpus, "title": corpus_title(corpus), "color": corpus_color(corpus), "value": p.value}
        | {"low": p.low, "high": p.high, "done": p.done, "total": p.total}
        for corpus, p in found.items()
    ]
    done = sum(p.done for p in found.values())
    head = {"running": "Measuring", "done": "Measured", "stopped": "Stopped measuring", "error": "Could not measure"}[
        state
    ]
    values = [f"{corpus_title(corpus)} {_with_error(p)}" for corpus, p in found.items()]
    counted = f"{done} of {total} windows" if state != "done" else f"{done} windows of {WINDOW} tokens"
    return {"points": points, "state": state, "status": f"{head} {percent} %: {' · '.join([*values, counted])}"}


def _with_error(perplexity: Perplexity) -> str:
    if perplexity.done < 2:
        return f"{perplexity.value:.4g}"
    return f"{perplexity.value:.4g} ± {(perplexity.high - perplexity.low) / 2:.2g}"


def _sentence(error: Exception) -> str:
    """What the visitor reads; the traceback of a mistake of ours goes to the server's log."""
    if isinstance(error, AcipError):
        return str(error)
    logging.getLogger(__name__).error("A visitor's request failed.", exc_info=error)
    return "Something went wrong on the server; its log says what."


def _session(request: gr.Request) -> str:
    return request.session_hash or "without session"


def _whole(number: float) -> int:
    """Browsers send 7.0 for 7; anything else goes on as it is, to be refused by name."""
    return int(number) if isinstance(number, float) and number.is_integer() else number  # type: ignore[return-value]
