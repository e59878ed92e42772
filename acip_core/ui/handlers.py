"""What happens when a visitor asks for a completion or a measurement: generators of messages for the browser.

A message is a plain dictionary that `assets/page.js` reads; it names its run and its size, so that the page can drop
what belongs to an older run. The completion's text travels as text and is never put together into markup.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import gradio as gr
import torch

from ..artifacts.loading import Loaded
from ..data.corpus import corpus_windows
from ..data.passage import cut_passage
from ..errors import AcipError, GenerationError
from ..evaluation.curves import primary_curves
from ..evaluation.perplexity import WINDOW, Perplexity
from ..figures.size_table import LARGEST_PERCENT, plan_at, smallest_percent
from ..generation.engine import Engine, finished_texts
from ..generation.speed import measure_speeds
from ..generation.tokens import TokenSteps
from ..model.context import fitting_window
from .asked import Ask, ask_of, percent_of, percents_of, text_of
from .columns import Column
from .downloads import Downloads, File
from .galleries import Galleries
from .gate import ARRIVAL
from .memory import give_back
from .messages import (
    FRAME_SECONDS,
    Message,
    columns_shown,
    counted,
    frames,
    measurement,
    reading_status,
    token_status,
)
from .names import without_places
from .reading import MOST_TOKENS, read_passage, sizes_to_read
from .snippets import loading_code
from .sweep import Texts, first_sizes, key_of, next_sizes
from .visitors import Run, Visitors

COMPLETION, COMPARISON, MEASUREMENT, READING = "completion", "comparison", "measurement", "reading"
SPEED, EXPORT = "speed", "export"
MOST_COLUMNS = 5
MEASURED_WINDOWS = 16  # per corpus, as many as the measured curve at least has
_SPEED_STEP = 10  # percent between two sizes whose speed is measured
_STARTING: Message = {"state": "running", "status": "starting"}
_FAILED = {COMPLETION: "Not completed", COMPARISON: "Not compared", READING: "Not read", EXPORT: "Not exported"}
Flow = Callable[[Run, Message], Iterator[Message]]  # a run, and what all its messages say, to be filled in


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
        self._corpora = [curve.corpus for curve in primary_curves(loaded.artifact.curves)] or ["c4", "wikipedia"]
        self._texts = Texts(loaded.completions)
        self._smallest = smallest_percent(self._planner)
        self._window = fitting_window(loaded.elastic.model, WINDOW)
        self._windows = lru_cache(maxsize=None)(self._read_windows)

    def _run(self, kind: str, request: gr.Request, nothing: Message, flow: Flow) -> Iterator[Message]:
        """The one way through a request: it begins, is checked, runs and ends; what goes wrong is one sentence.

        Args:
            nothing: what a message says where there is no result.
        """
        session = _session(request)
        with self.visitors.running(session, kind, _arrival(request)) as run:
            told: Message = {"run": run.id}
            try:
                with closing(flow(run, told)) as updates:  # type: ignore[type-var]
                    for update in updates:
                        if not self.visitors.is_newest(session, kind, run):
                            return
                        yield told | update
            except Exception as error:
                sentence = _sentence(error)
                gr.Warning(sentence, title=_FAILED.get(kind, "Not measured"))
                yield told | nothing | {"state": "error", "status": sentence}
            finally:
                give_back()

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
        settings = (temperature, top_p, seed, length, chat)
        yield from self._answer(prompt, percent, settings, request, self._alone)

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
        settings = (temperature, top_p, seed, length, chat)
        yield from self._answer(prompt, percent, settings, request, self._among_others)

    def _answer(
        self,
        prompt: str,
        percent: float,
        settings: tuple[Any, ...],
        request: gr.Request,
        updates: Callable[[Ask, int, Run], Iterator[Message]],
    ) -> Iterator[Message]:
        def flow(run: Run, told: Message) -> Iterator[Message]:
            told["percent"] = used = self._size(percent)
            told["prompt"] = text_of("prompt", prompt)
            ask = ask_of(prompt, *settings)
            told["prompt"] = ask.shown
            yield from updates(ask, used, run)

        yield from self._run(COMPLETION, request, {"text": ""}, flow)

    def _alone(self, ask: Ask, percent: int, run: Run) -> Iterator[Message]:
        yield _STARTING | {"text": ""}
        for update in frames(self._side_by_side(ask, [percent], run), [percent]):
            del update["ready"]
            yield update

    def _among_others(self, ask: Ask, percent: int, run: Run) -> Iterator[Message]:
        key = key_of(ask.prompt, ask.sampling, ask.chat)
        known, beforehand = self._texts.known(key), self._texts.made_beforehand(key)
        yield _STARTING | {
            "text": "",
            "key": key,
            "beforehand": beforehand,
            "ready": [[p, text, True] for p, text in known.items()],
        }
        alone = known or self.visitors.count > 1
        sizes = [percent] if alone else first_sizes(ask.prompt, percent, self._smallest)
        update: Message = {}
        for update in frames(self._side_by_side(ask, sizes, run), sizes, known.get(percent)):
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

    def _side_by_side(self, ask: Ask, sizes: Sequence[int], run: Run, judge: bool = False) -> TokenSteps:
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

        def flow(run: Run, told: Message) -> Iterator[Message]:
            ask = ask_of(prompt, temperature, top_p, seed, length, chat)
            told["prompt"] = ask.shown
            columns = [Column(percent) for percent in self._compared(percents)]
            yield _STARTING | {"columns": columns_shown(columns, columns[0])}
            yield from self._in_step(ask, columns, run)

        yield from self._run(COMPARISON, request, {"columns": []}, flow)

    def _compared(self, percents: Any) -> list[int]:
        sizes = sorted({self._size(percent) for percent in percents_of(percents)}, reverse=True)
        if not 2 <= len(sizes) <= MOST_COLUMNS:
            raise GenerationError(f"Choose two to {MOST_COLUMNS} different sizes to compare, not {len(sizes)}.")
        return sizes

    def _in_step(self, ask: Ask, columns: list[Column], run: Run) -> Iterator[Message]:
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
            if ended or latest.count <= 1 or now - shown >= FRAME_SECONDS:
                shown = now
                state = "running" if not ended else "stopped" if latest.finish == "stopped" else "done"
                status = token_status(replace(latest, finish=latest.finish if ended else ""), now - first)
                yield {"columns": columns_shown(columns, full), "state": state, "status": status}

    def measure(self, percent: float, request: gr.Request) -> Iterator[Message]:
        """Measure perplexity at a slider position on held-out text, window by window, corpora in turn."""

        def flow(run: Run, told: Message) -> Iterator[Message]:
            used, plan = plan_at(self._planner, percent_of(percent))
            told.update(percent=used, ratio=plan.ratio)
            yield {"points": [], "state": "running", "status": f"Measuring {used} %: reading held-out text …"}
            found: dict[str, Perplexity] = {}
            total = MEASURED_WINDOWS * len(self._corpora)
            streams = [self._measure_corpus(corpus, plan, run) for corpus in self._corpora]
            for step in (pair for round in zip_longest(*streams) for pair in round if pair is not None):
                found[step[0]] = step[1]
                yield measurement(used, found, "running", total, self._window)
            yield measurement(used, found, "stopped" if run.cancel.is_set() else "done", total, self._window)

        yield from self._run(MEASUREMENT, request, {"points": []}, flow)

    def speed(self, request: gr.Request) -> Iterator[Message]:
        """Measure tokens per second on this machine at sizes all over the slider; `speeds` maps percent to them."""

        def flow(run: Run, told: Message) -> Iterator[Message]:
            measuring: Message = {"state": "running", "status": "Measuring the speed of every size …"}
            told["speeds"] = {}
            yield measuring
            sizes = sorted({*range(LARGEST_PERCENT, self._smallest, -_SPEED_STEP), self._smallest})
            plans = [plan_at(self._planner, size)[1] for size in sizes]
            for speeds in measure_speeds(self.engine, plans, run.cancel):
                told["speeds"] = {str(size): speed for size, speed in zip(sizes, speeds, strict=True)}
                yield measuring
            yield {"state": "done", "status": "Speed measured on this machine, one sequence at a time."}

        yield from self._run(SPEED, request, {}, flow)

    def read(self, text: str, percent: float, request: gr.Request) -> Iterator[Message]:
        """Read a text of one's own at many sizes, coarse ones first: its perplexity, and every token's loss in nats.

        Nothing of the text is kept.
        """

        def flow(run: Run, told: Message) -> Iterator[Message]:
            told.update(pieces=[], left_out=0, sizes=[])
            used = self._size(percent)
            yield _STARTING
            passage = cut_passage(self.engine.elastic.tokenizer, text_of("text", text), self._window, MOST_TOKENS)
            told.update(pieces=passage.pieces, left_out=passage.left_out)
            total = len(sizes_to_read(used, self._smallest))
            for sizes in read_passage(self.engine, passage, used, self._smallest, run.cancel):
                told["sizes"] = sizes
                yield {"state": "running", "status": reading_status(sizes, total, passage.pieces)}
            done = [size for size in told["sizes"] if size["done"]]
            ended = ("stopped", "Stopped reading") if run.cancel.is_set() else ("done", "Read")
            sentence = f"{ended[1]}: {counted(len(passage.pieces), 'token')} at {counted(len(done), 'size')}"
            behind = f"; {counted(passage.left_out, 'token')} behind them not read" if passage.left_out else ""
            yield {"state": ended[0], "status": f"{sentence}{behind}."}

        yield from self._run(READING, request, {}, flow)

    def export(self, percent: float, request: gr.Request) -> Iterator[Message]:
        """Write the model at a slider position as a ZIP file; `address`, relative to the page, then answers with it."""

        def flow(run: Run, told: Message) -> Iterator[Message]:
            used, plan = plan_at(self._planner, percent_of(percent))
            name = f"{self._name}-at-{used}{self._quantized}"
            told.update(percent=used, name=name, address="", bytes=0, done=0.0)
            yield {"state": "running", "status": f"Exporting {used} % …"}
            for step in self.downloads.write(plan, name, run.cancel):
                if isinstance(step, File):
                    size = step.path.stat().st_size
                    status = f"{used} % is ready, {size / 1e6:.0f} MB. It is kept for ten minutes."
                    code = loading_code(name, plan.bytes < plan.base_bytes)
                    done = {"state": "done", "status": status, "code": code, "done": 1.0}
                    yield done | {"address": step.address, "bytes": size}
                else:
                    yield {"state": "running", "status": f"Exporting {used} %: {step:.0%}", "done": step}
            if run.cancel.is_set():
                yield {"state": "stopped", "status": f"Stopped exporting {used} %; nothing is left of it."}

        yield from self._run(EXPORT, request, {}, flow)

    def stop(self, request: gr.Request) -> None:
        """Stop the visitor's completion within one token."""
        self._stop(COMPLETION, request)

    def stop_comparing(self, request: gr.Request) -> None:
        """Stop the visitor's comparison within one token; the texts stay."""
        self._stop(COMPARISON, request)

    def stop_measuring(self, request: gr.Request) -> None:
        """Stop the visitor's measurement within one slice of a window; what was measured stays."""
        self._stop(MEASUREMENT, request)

    def stop_reading(self, request: gr.Request) -> None:
        """Stop reading the visitor's text within one slice of a window; what was read stays."""
        self._stop(READING, request)

    def stop_exporting(self, request: gr.Request) -> None:
        """Stop the visitor's export; nothing is left of it."""
        self._stop(EXPORT, request)

    def _stop(self, kind: str, request: gr.Request) -> None:
        self.visitors.stop(_session(request), kind, _arrival(request))

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

    def _size(self, percent: Any) -> int:
        return plan_at(self._planner, percent_of(percent))[0]

    def _measure_corpus(self, corpus: str, plan: Any, run: Run) -> Iterator[tuple[str, Perplexity]]:
        for value in self.engine.measure(self._windows(corpus), plan, run.cancel):
            yield corpus, value

    def _read_windows(self, corpus: str) -> torch.Tensor:
        return corpus_windows(self.engine.elastic.tokenizer, corpus, "held-out", self._window, MEASURED_WINDOWS)


def _sentence(error: Exception) -> str:
    """What the visitor reads; the traceback of a mistake of ours goes to the server's log."""
    if isinstance(error, AcipError):
        return without_places(str(error))
    logging.getLogger(__name__).error("A visitor's request failed.", exc_info=error)
    return "Something went wrong on the server; its log says what."


def _session(request: gr.Request) -> str:
    return request.session_hash or "without session"


def _arrival(request: gr.Request) -> int | None:
    """Its place in the order of arrival; there is none where no server stands before the handlers."""
    received = getattr(request, "request", None)
    return received.scope.get(ARRIVAL) if received is not None else None
