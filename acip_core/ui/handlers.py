"""What Gradio calls when a visitor asks for something: generators of messages for the browser.

A message is a plain dictionary that the page's scripts read; it names its run and its size, so that the page can drop
what belongs to an older run. The completion's text travels as text and is never put together into markup.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from ..artifacts.loading import Loaded
from ..errors import AcipError
from ..model.thread_pools import on_one_thread
from .comparison_job import MOST_COLUMNS, ComparisonJob, comparable
from .completion_jobs import CompletionJob, SweepJob
from .document import Document
from .export_job import ExportJob
from .gate import ARRIVAL
from .gradio_import import gr
from .job import Job
from .measurement_jobs import PerplexityJob, SpeedJob
from .memory import give_back, give_pages
from .messages import Message
from .model_service import ModelService
from .names import without_places
from .reading_job import ReadingJob
from .requests import CompletionConfig


class Handlers:
    """The page's functions for one open model; their signatures are the page's public API.

    Attributes:
        model: the model with its engine, its exported files and its pictures.
        visitors: who is running what.
        version: of the page; no other has the same, of another process neither.
        document: what the page's HTML says before its parts come.
    """

    document: Document

    def __init__(self, loaded: Loaded):
        self.model = ModelService(loaded)
        self.visitors = self.model.visitors
        self.version = secrets.token_hex(8)

    def _run(self, job: Job, request: gr.Request) -> Iterator[Message]:
        """The one way through a request: it begins, is checked, runs and ends; what goes wrong is one sentence."""
        session = _session(request)
        with self.visitors.running(session, job.kind, _arrival(request)) as run:
            job.common.update(run=run.id, page=self.version)
            try:
                job.check()
                with closing(job.messages(run)) as messages:  # type: ignore[type-var]
                    for message in on_one_thread(messages):  # the model has the cores
                        if not self.visitors.is_newest(session, job.kind, run):
                            return
                        give_pages()
                        yield job.common | message
            except Exception as error:
                sentence = _sentence(error)
                gr.Warning(sentence, title=job.failed)
                yield job.common | job.nothing | {"state": "error", "status": sentence}
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
        mode: str = "",
        repetition_penalty: float = 1.0,
    ) -> Iterator[Message]:
        """Stream a completion at a slider position, replacing the visitor's former one.

        `mode` is what may be spent, as in all functions: directions, bits or both; when empty, the best there is. A
        `repetition_penalty` above 1 makes tokens that the text has already less likely.
        """
        settings = CompletionConfig(temperature, top_p, seed, length, chat, mode, repetition_penalty)
        yield from self._run(CompletionJob(self.model, prompt, percent, settings), request)

    def sweep(
        self, request: gr.Request, prompt: str, percent: float, *settings: float | bool | str
    ) -> Iterator[Message]:
        """As `complete`, with the original's text beside it, then those of other sizes for the next drag."""
        yield from self._run(SweepJob(self.model, prompt, percent, CompletionConfig(*settings)), request)

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
        mode: str = "",
        repetition_penalty: float = 1.0,
    ) -> Iterator[Message]:
        """Stream completions at two to five sizes in step, every token with the probability the full model gives it."""
        settings = CompletionConfig(temperature, top_p, seed, length, chat, mode, repetition_penalty)
        yield from self._run(ComparisonJob(self.model, prompt, percents, settings), request)

    def measure(self, percent: float, request: gr.Request, mode: str = "") -> Iterator[Message]:
        """Measure perplexity at a slider position on held-out text, window by window, corpora in turn."""
        yield from self._run(PerplexityJob(self.model, percent, mode), request)

    def speed(self, request: gr.Request, mode: str = "") -> Iterator[Message]:
        """Measure tokens per second on this machine at sizes all over the slider; `speeds` maps percent to them."""
        yield from self._run(SpeedJob(self.model, mode), request)

    def read(self, text: str, percent: float, request: gr.Request, mode: str = "") -> Iterator[Message]:
        """Read a text of one's own at many sizes, coarse ones first: its perplexity, and every token's loss in nats.

        Nothing of the text is kept.
        """
        yield from self._run(ReadingJob(self.model, text, percent, mode), request)

    def export(self, percent: float, request: gr.Request, mode: str = "") -> Iterator[Message]:
        """Write the model at a slider position as a ZIP file; `address`, relative to the page, then answers with it."""
        yield from self._run(ExportJob(self.model, percent, mode), request)

    def compared(self, mode: str, wanted: list[float]) -> dict[str, Any]:
        """The sizes that can be seen side by side in a mode, and those that are wanted or else that it starts with."""
        track = self.model.modes.track(mode)
        choices = comparable(track)
        sizes = [size for _, size in choices if isinstance(wanted, list) and size in wanted][:MOST_COLUMNS]
        return gr.update(choices=choices, value=sizes if len(sizes) > 1 else track.compared)

    def stop(self, request: gr.Request) -> None:
        """Stop the visitor's completion within one token."""
        self._stop(CompletionJob, request)

    def stop_comparing(self, request: gr.Request) -> None:
        """Stop the visitor's comparison within one token; the texts stay."""
        self._stop(ComparisonJob, request)

    def stop_measuring(self, request: gr.Request) -> None:
        """Stop the visitor's measurement within one slice of a window; what was measured stays."""
        self._stop(PerplexityJob, request)

    def stop_reading(self, request: gr.Request) -> None:
        """Stop reading the visitor's text within one slice of a window; what was read stays."""
        self._stop(ReadingJob, request)

    def stop_exporting(self, request: gr.Request) -> None:
        """Stop the visitor's export; nothing is left of it."""
        self._stop(ExportJob, request)

    def _stop(self, job: type[Job], request: gr.Request) -> None:
        self.visitors.stop(_session(request), job.kind, _arrival(request))

    def leave(self, request: gr.Request) -> None:
        """The visitor closed the page."""
        self.visitors.leave(_session(request))

    def close(self) -> None:
        """Stop all runs and let go of the model: Gradio keeps closed pages, and these their handlers, forever."""
        self.model.close()


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
