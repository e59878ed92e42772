"""Writing a completion at the slider's size, alone or with the original's and those of other sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from ..generation.engine import finished_texts
from .job import STARTING, Job
from .messages import Message, frames
from .model_service import ModelService
from .requests import CompletionConfig, completion_request, text_of
from .sweep import first_batches, key_of, next_sizes
from .visitors import Run


class CompletionJob(Job):
    """A completion at one size."""

    kind = "completion"
    failed = "Not completed"
    nothing: ClassVar[Message] = {"text": ""}

    def __init__(self, model: ModelService, prompt: Any, percent: Any, settings: CompletionConfig):
        super().__init__()
        self._model, self._asked = model, (prompt, percent, settings)

    def check(self) -> None:
        prompt, percent, settings = self._asked
        self.take_size(self._model, percent, settings.mode)
        self.common["prompt"] = text_of("prompt", prompt)
        self.request = completion_request(prompt, settings)
        self.common["shown"] = self.request.shown

    def messages(self, run: Run) -> Iterator[Message]:
        yield STARTING | {"text": ""}
        for update in frames(self._model.side_by_side(self.request, self.track, [self.percent], run), [self.percent]):
            del update["ready"], update["read"]
            yield update


class SweepJob(CompletionJob):
    """A completion at one size, beside it the original's text, and then the texts of other sizes.

    Those known come at once. Other sizes follow while nobody else needs the model. Every message has all texts so far:
    of several that arrive at once the page sees the last.
    """

    def messages(self, run: Run) -> Iterator[Message]:
        self._ready: dict[float, tuple[str, bool]] = {}
        self.key = key_of(self.request.prompt, self.request.sampling, self.request.chat, self.track.mode)
        texts = self._model.texts
        known, beforehand = texts.known(self.key), texts.made_beforehand(self.key)
        self.common.update(key=self.key, beforehand=beforehand)
        self._tell({percent: (text, True) for percent, text in known.items()})
        yield STARTING | {"text": ""}
        own, *behind = first_batches(self.request.prompt, known, self.percent)
        update: Message = {}
        # Where nothing is lost, many positions are one size.
        here = next((text for size, text in known.items() if self.track.plan_at(size)[1] == self.plan), None)
        for update in self._batch(own, run, here):
            yield update
        for sizes in behind:
            yield from self._original(update, sizes, run)
        if not beforehand:
            yield from self._further_texts(update, run)

    def _batch(self, sizes: list[float], run: Run, known: str | None = None) -> Iterator[Message]:
        """Texts of some sizes in step; finished ones are kept."""
        steps = self._model.side_by_side(self.request, self.track, sizes, run)
        for update in frames(steps, sizes, known):
            written: dict[float, tuple[str, bool]] = update.pop("ready")
            for size, (text, finished) in written.items():
                if finished:
                    self._model.texts.add(self.key, size, text)
            self._tell(written)
            yield update

    def _tell(self, written: dict[float, tuple[str, bool]]) -> None:
        """Add texts, and whether they are complete, to what messages have; a complete one stays until another is."""
        for size, (text, finished) in written.items():
            if finished or not self._ready.get(size, ("", False))[1]:
                self._ready[size] = text, finished
        self.common["ready"] = [[size, *each] for size, each in self._ready.items()]

    def _original(self, update: Message, sizes: list[float], run: Run) -> Iterator[Message]:
        """The original's text behind the slider's own, as repetitions of the last message with how far it is."""
        if update["state"] != "done":
            return
        for message in self._batch(sizes, run):
            yield update | {"read": message["read"], "status": f"the original: {message['status']}"}
        yield update

    def _further_texts(self, update: Message, run: Run) -> Iterator[Message]:
        """Texts of the sizes that are missing, as repetitions of the last message with one text more each."""
        texts, prompt = self._model.texts, self.request.prompt
        while update["state"] == "done" and self._model.visitors.count == 1 and not run.cancel.is_set():
            sizes = next_sizes(prompt, texts.known(self.key), self.percent, self.track)
            if not sizes:
                return
            steps = self._model.side_by_side(self.request, self.track, sizes, run)
            for i, text in finished_texts(steps):
                texts.add(self.key, sizes[i], text)
                self._tell({sizes[i]: (text, True)})
                yield update
