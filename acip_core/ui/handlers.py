"""What happens when a visitor asks for a completion or a measurement: generators of messages for the browser.

A message is a plain dictionary that `assets/page.js` reads; it names its run and its size, so that the page can drop
what belongs to an older run. The completion's text travels as text and is never put together into markup.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import gradio as gr
import torch

from ..artifact import own_curves
from ..completions import finished_texts
from ..corpus import corpus_windows
from ..efficiency import measure_speeds
from ..errors import AcipError, GenerationError
from ..evaluate import WINDOW, Perplexity
from ..generate import Engine, Sampling, Steps, Token
from ..loading import Loaded
from ..passage import cut_passage
from .chart import corpus_color, corpus_title
from .columns import Column
from .downloads import Downloads, File
from .galleries import Galleries
from .reading import MOST_TOKENS, read_passage, sizes_to_read
from .snippets import loading_code
from .sweep import Texts, first_sizes, key_of, next_sizes
from .table import LARGEST_PERCENT, plan_at, smallest_percent
from .visitors import Run, Visitors

Message = dict[str, Any]
COMPLETION, COMPARISON, MEASUREMENT, READING = "completion", "comparison", "measurement", "reading"
SPEED, EXPORT = "speed", "export"
MOST_COLUMNS = 5
MEASURED_WINDOWS = 16  # per corpus, as many as the measured curve at least has
_SPEED_STEP = 10  # percent between two sizes whose speed is measured
_FRAME_SECONDS = 0.04  # on a fast device several tokens travel together
_STARTING: Message = {"state": "running", "status": "starting"}
_FINISH = {"end": "finished", "length": "length reached", "stopped": "stopped"}


@dataclass(frozen=True)
class _Ask:
    """What a visitor wants continued, and how."""

    prompt: str
    sampling: Sampling
    chat: bool


class Handlers:
    """The page's server side: one engine, all visitors.

    Attributes:
        downloads: the models that visitors exported.
        galleries: the pictures of the loaded model.
    """

    def __init__(self, loaded: Loaded):
        self.engine = Engine(loaded.elastic)
        self.downloads = Downloads(loaded)
        self.galleries = Galleries(loaded)
        self._name = loaded.elastic.base.name
        self._quantized = f"-{loaded.quantized.precision.name}" if loaded.quantized else ""
        self.visitors = Visitors()
        self._planner = loaded.elastic.planner
        self._corpora = [curve.corpus for curve in own_curves(loaded.artifact.curves)] or ["c4", "wikipedia"]
        self._texts = Texts(loaded.completions)
        self._smallest = smallest_percent(self._planner)
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
        ask = _Ask(prompt, Sampling(temperature, top_p, _whole(seed), _whole(length)), chat)
        yield from self._answer(ask, percent, request, self._alone)

    def sweep(
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
        """As `complete`, and beside it the texts of other sizes, so that the page can show them during a drag.

        Those known come at once; when none is, a few are written in the same batch. The others follow while nobody
        else needs the model.
        """
        ask = _Ask(prompt, Sampling(temperature, top_p, _whole(seed), _whole(length)), chat)
        yield from self._answer(ask, percent, request, self._among_others)

    def _answer(
        self, ask: _Ask, percent: float, request: gr.Request, updates: Callable[[_Ask, int, Run], Iterator[Message]]
    ) -> Iterator[Message]:
        session = _session(request)
        run = self.visitors.begin(session, COMPLETION)
        used, _ = plan_at(self._planner, percent)
        fixed = {"run": run.id, "percent": used, "prompt": "" if ask.chat else ask.prompt or ""}
        try:
            for update in updates(ask, used, run):
                if not self.visitors.is_newest(session, COMPLETION, run):
                    return
                yield fixed | update
        except Exception as error:
            sentence = _sentence(error)
            gr.Warning(sentence, title="Not completed")
            yield fixed | {"text": "", "state": "error", "status": sentence}
        finally:
            self.visitors.end(session, COMPLETION, run)

    def _alone(self, ask: _Ask, percent: int, run: Run) -> Iterator[Message]:
        yield _STARTING | {"text": ""}
        for update in _frames(self._side_by_side(ask, [percent], run), [percent]):
            del update["ready"]
            yield update

    def _among_others(self, ask: _Ask, percent: int, run: Run) -> Iterator[Message]:
        key = key_of(ask.prompt, ask.sampling, ask.chat)
        known, beforehand = self._texts.known(key), self._texts.made_beforehand(key)
        yield _STARTING | {
            "text": "",
            "key": key,
            "beforehand": beforehand,
            "ready": [[p, text, True] for p, text in known.items()],
        }
        alone = known or self.visitors.count > 1
        sizes = [percent] if alone else first_sizes(ask.prompt or "", percent, self._smallest)
        update: Message = {}
        for update in _frames(self._side_by_side(ask, sizes, run), sizes, known.get(percent)):
            for size, text, finished in update["ready"]:
                if finished:
                    self._texts.add(key, size, text)
            yield update | {"key": key}
        while update["state"] == "done" and not beforehand and self.visitors.count == 1 and not run.cancel.is_set():
            sizes = next_sizes(ask.prompt, self._texts.known(key), percent, self._smallest)
            if not sizes:
                return
            for i, text in finished_texts(self._side_by_side(ask, sizes, run)):
                self._texts.add(key, sizes[i], text)
                yield update | {"key": key, "ready": [[sizes[i], text, True]]}

    def _side_by_side(self, ask: _Ask, sizes: Sequence[int], run: Run, judge: bool = False) -> Steps:
        plans = [plan_at(self._planner, size)[1] for size in sizes]
        return self.engine.compare(ask.prompt, plans, ask.sampling, run.cancel, ask.chat, judge)

    def compare(
        self,
        prompt: str,
        percents: list[int],
        temperature: float,
        top_p: float,
        seed: float,
        length: float,
        chat: bool,
        request: gr.Request,
    ) -> Iterator[Message]:
        """Stream completions at two to five sizes in step, every token with the probability the full model gives it."""
        session = _session(request)
        run = self.visitors.begin(session, COMPARISON)
        fixed: Message = {"run": run.id, "prompt": "" if chat else prompt or ""}
        columns: list[Column] = []
        try:
            ask = _Ask(prompt, Sampling(temperature, top_p, _whole(seed), _whole(length)), chat)
            columns = [Column(percent) for percent in self._compared(percents)]
            yield fixed | _STARTING | {"columns": _shown(columns, columns[0])}
            for update in self._in_step(ask, columns, run):
                if not self.visitors.is_newest(session, COMPARISON, run):
                    return
                yield fixed | update
        except Exception as error:
            sentence = _sentence(error)
            gr.Warning(sentence, title="Not compared")
            yield fixed | {"columns": [], "state": "error", "status": sentence}
        finally:
            self.visitors.end(session, COMPARISON, run)

    def _compared(self, percents: Sequence[float] | None) -> list[int]:
        sizes = sorted({plan_at(self._planner, percent)[0] for percent in percents or ()}, reverse=True)
        if not 2 <= len(sizes) <= MOST_COLUMNS:
            raise GenerationError(f"Choose two to {MOST_COLUMNS} different sizes to compare, not {len(sizes)}.")
        return sizes

    def _in_step(self, ask: _Ask, columns: list[Column], run: Run) -> Iterator[Message]:
        """The columns so far; the full model's own text is written with them, also where it is not shown."""
        full = columns[0] if columns[0].percent == LARGEST_PERCENT else Column(LARGEST_PERCENT)
        running = columns if full is columns[0] else [*columns, full]
        first, shown = 0.0, 0.0
        for step in self._side_by_side(ask, [column.percent for column in running], run, judge=True):
            for i, token in step.items():
                running[i].add(token)
            now, latest = time.monotonic(), next(iter(step.values()))
            first = now if latest.count == 1 else first
            ended = all(column.finish for column in running)
            if ended or latest.count <= 1 or now - shown >= _FRAME_SECONDS:
                shown = now
                state = "running" if not ended else "stopped" if latest.finish == "stopped" else "done"
                status = _status(replace(latest, finish=latest.finish if ended else ""), now - first)
                yield {"columns": _shown(columns, full), "state": state, "status": status}

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

    def speed(self, request: gr.Request) -> Iterator[Message]:
        """Measure tokens per second on this machine at sizes all over the slider; `speeds` maps percent to them."""
        session = _session(request)
        run = self.visitors.begin(session, SPEED)
        message: Message = {"run": run.id, "speeds": {}}
        try:
            yield message | {"state": "running", "status": "Measuring the speed of every size …"}
            sizes = sorted({*range(LARGEST_PERCENT, self._smallest, -_SPEED_STEP), self._smallest})
            plans = [plan_at(self._planner, size)[1] for size in sizes]
            for speeds in measure_speeds(self.engine, plans, run.cancel):
                if not self.visitors.is_newest(session, SPEED, run):
                    return
                message |= {"speeds": {str(size): speed for size, speed in zip(sizes, speeds, strict=True)}}
                yield message | {"state": "running", "status": "Measuring the speed of every size …"}
            yield message | {"state": "done", "status": "Speed measured on this machine, one sequence at a time."}
        except Exception as error:
            sentence = _sentence(error)
            gr.Warning(sentence, title="Not measured")
            yield message | {"state": "error", "status": sentence}
        finally:
            self.visitors.end(session, SPEED, run)

    def read(self, text: str, percent: float, request: gr.Request) -> Iterator[Message]:
        """Read a text of one's own at many sizes, coarse ones first: its perplexity, and every token's loss in nats.

        Nothing of the text is kept.
        """
        session = _session(request)
        run = self.visitors.begin(session, READING)
        used, _ = plan_at(self._planner, percent)
        message: Message = {"run": run.id, "pieces": [], "left_out": 0, "sizes": []}
        try:
            yield message | _STARTING
            passage = cut_passage(self.engine.elastic.tokenizer, text, WINDOW, MOST_TOKENS)
            message |= {"pieces": passage.pieces, "left_out": passage.left_out}
            total = len(sizes_to_read(used, self._smallest))
            for sizes in read_passage(self.engine, passage, used, self._smallest, run.cancel):
                if not self.visitors.is_newest(session, READING, run):
                    return
                message |= {"sizes": sizes}
                yield message | {"state": "running", "status": _progress(sizes, total, passage.pieces)}
            done = [size for size in message["sizes"] if size["done"]]
            ended = ("stopped", "Stopped reading") if run.cancel.is_set() else ("done", "Read")
            counted = f"{ended[1]}: {_counted(len(passage.pieces), 'token')} at {_counted(len(done), 'size')}"
            behind = f"; {_counted(passage.left_out, 'token')} behind them not read" if passage.left_out else ""
            yield message | {"state": ended[0], "status": f"{counted}{behind}."}
        except Exception as error:
            sentence = _sentence(error)
            gr.Warning(sentence, title="Not read")
            yield message | {"state": "error", "status": sentence}
        finally:
            self.visitors.end(session, READING, run)

    def export(self, percent: float, request: gr.Request) -> Iterator[Message]:
        """Write the model at a slider position as a ZIP file; `address`, relative to the page, then answers with it."""
        session = _session(request)
        run = self.visitors.begin(session, EXPORT)
        used, plan = plan_at(self._planner, percent)
        name = f"{self._name}-at-{used}{self._quantized}"
        fixed = {"run": run.id, "percent": used, "name": name, "address": "", "bytes": 0, "done": 0.0}
        stopped: Message = {"state": "stopped", "status": f"Stopped exporting {used} %; nothing is left of it."}
        try:
            yield fixed | {"state": "running", "status": f"Exporting {used} % …"}
            for step in self.downloads.write(plan, name, run.cancel):
                if not self.visitors.is_newest(session, EXPORT, run):
                    run.cancel.set()
                elif isinstance(step, File):
                    size = step.path.stat().st_size
                    status = f"{used} % is ready, {size / 1e6:.0f} MB. It is kept for ten minutes."
                    code = loading_code(name, plan.bytes < plan.base_bytes)
                    done = {"state": "done", "status": status, "code": code, "done": 1.0}
                    yield fixed | done | {"address": step.address, "bytes": size}
                else:
                    yield fixed | {"state": "running", "status": f"Exporting {used} %: {step:.0%}", "done": step}
            if run.cancel.is_set() and self.visitors.is_newest(session, EXPORT, run):
                yield fixed | stopped
        except Exception as error:
            sentence = _sentence(error)
            gr.Warning(sentence, title="Not exported")
            yield fixed | {"state": "error", "status": sentence}
        finally:
            self.visitors.end(session, EXPORT, run)

    def stop(self, request: gr.Request) -> None:
        """Stop the visitor's completion within one token."""
        self.visitors.stop(_session(request), COMPLETION)

    def stop_comparing(self, request: gr.Request) -> None:
        """Stop the visitor's comparison within one token; the texts stay."""
        self.visitors.stop(_session(request), COMPARISON)

    def stop_measuring(self, request: gr.Request) -> None:
        """Stop the visitor's measurement within one slice of a window; what was measured stays."""
        self.visitors.stop(_session(request), MEASUREMENT)

    def stop_reading(self, request: gr.Request) -> None:
        """Stop reading the visitor's text within one slice of a window; what was read stays."""
        self.visitors.stop(_session(request), READING)

    def stop_exporting(self, request: gr.Request) -> None:
        """Stop the visitor's export; nothing is left of it."""
        self.visitors.stop(_session(request), EXPORT)

    def close(self) -> None:
        """Stop all runs and let go of the model: Gradio keeps closed pages, and these their handlers, forever."""
        self.visitors.leave_all()
        self.downloads.close()
        self.galleries.close()
        for name in set(vars(self)) - {"visitors"}:
            delattr(self, name)

    def leave(self, request: gr.Request) -> None:
        """The visitor closed the page."""
        self.visitors.leave(_session(request))

    def _measure_corpus(self, corpus: str, plan: Any, run: Run) -> Iterator[tuple[str, Perplexity]]:
        for value in self.engine.measure(self._windows(corpus), plan, run.cancel):
            yield corpus, value

    def _read_windows(self, corpus: str) -> torch.Tensor:
        return corpus_windows(self.engine.elastic.tokenizer, corpus, "held-out", WINDOW, MEASURED_WINDOWS)

    def _total_windows(self) -> int:
        return MEASURED_WINDOWS * len(self._corpora)


def _frames(steps: Steps, sizes: Sequence[int], known: str | None = None) -> Iterator[Message]:
    """Texts so far with the first one's status, at most every few hundredths of a second, first and last steps always.

    Args:
        sizes: in percent, of the texts.
        known: the first one's text as it was made before; the status says whether it came out the same.
    """
    ready: dict[int, tuple[str, bool]] = dict.fromkeys(sizes, ("", False))
    first, shown, state, status = 0.0, 0.0, "running", ""
    for step in steps:
        now = time.monotonic()
        for i, part in step.items():
            ready[sizes[i]] = (ready[sizes[i]][0] + part.text, part.finish not in ("", "stopped"))
        token = step.get(0)
        if token:
            first = now if token.count == 1 else first
            state = "running" if not token.finish else "stopped" if token.finish == "stopped" else "done"
            status = _status(token, now - first)
            if state == "done" and known is not None:
                status += " · as dragged" if ready[sizes[0]][0] == known else " · not as dragged"
        ended = any(part.finish for part in step.values())
        if ended or (token and token.count <= 1) or now - shown >= _FRAME_SECONDS:
            shown = now
            parts = [[size, *written] for size, written in ready.items()]
            yield {"text": ready[sizes[0]][0], "state": state, "status": status, "ready": parts}


def _shown(columns: Sequence[Column], full: Column) -> list[Message]:
    return [column.message(full) for column in columns]


def _status(step: Token, seconds: float) -> str:
    if step.ahead and not step.finish:
        return f"busy, {step.ahead} ahead"
    if step.count == 0 and not step.finish:
        return f"reading the prompt, {step.prompt_read:,} of {step.prompt_tokens:,} tokens"
    parts = [_counted(step.count, "token")]
    if step.count > 1 and seconds > 0:
        speed = (step.count - 1) / seconds
        parts.append(f"{speed:.1f} tokens/s" if speed < 100 else f"{speed:,.0f} tokens/s")
    if step.finish:
        parts.append(_FINISH[step.finish])
    return " · ".join(parts)


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _progress(sizes: list[Message], total: int, pieces: list[str]) -> str:
    at, read = sizes[-1]["percent"], len(sizes[-1]["losses"].split())
    return f"Reading at {at} %: {read:,} of {len(pieces):,} tokens, size {len(sizes)} of {total}"


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
