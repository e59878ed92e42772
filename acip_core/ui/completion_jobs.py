"""Writing a completion at the slider's size, alone or with the texts of other sizes for the next drag."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from ..generation.engine import finished_texts
from .job import STARTING, Job
from .messages import Message, frames
from .model_service import ModelService
from .requests import CompletionSettings, completion_request, text_of
from .sweep import first_sizes, key_of, next_sizes
from .visitors import Run


class CompletionJob(Job):
    """A completion at one size."""

    kind = "completion"
    failed = "Not completed"
    nothing: ClassVar[Message] = {"text": ""}

    def __init__(self, model: ModelService, prompt: Any, percent: Any, settings: CompletionSettings):
        super().__init__()
        self._model, self._asked = model, (prompt, percent, settings)

    def check(self) -> None:
        prompt, percent, settings = self._asked
        self.take_size(self._model, percent, settings.mode)
        self.common["prompt"] = text_of("prompt", prompt)
        self.request = completion_request(prompt, settings)
        self.common["prompt"] = self.request.shown

    def messages(self, run: Run) -> Iterator[Message]:
        yield STARTING | {"text": ""}
        for update in frames(self._model.side_by_side(self.request, self.track, [self.percent], run), [self.percent]):
            del update["ready"]
            yield update


class SweepJob(CompletionJob):
    """A completion at one size, and beside it the texts of other sizes.

    Those known come at once; when none is, a few are written in the same batch. The others follow while nobody else
    needs the model.
    """

    def messages(self, run: Run) -> Iterator[Message]:
        self.key = key_of(self.request.prompt, self.request.sampling, self.request.chat, self.track.mode)
        texts = self._model.texts
        known, beforehand = texts.known(self.key), texts.made_beforehand(self.key)
        ready = [[percent, text, True] for percent, text in known.items()]
        yield STARTING | {"text": "", "key": self.key, "beforehand": beforehand, "ready": ready}
        update: Message = {}
        for update in self._first_texts(known, run):
            yield update
        if not beforehand:
            yield from self._further_texts(update, run)

    def _first_texts(self, known: dict[float, str], run: Run) -> Iterator[Message]:
        """The slider's own text, with a few others where none is known and nobody waits."""
        alone = known or self._model.visitors.count > 1
        sizes = [self.percent] if alone else first_sizes(self.request.prompt, self.percent, self.track)
        steps = self._model.side_by_side(self.request, self.track, sizes, run)
        for update in frames(steps, sizes, known.get(self.percent)):
            for size, text, finished in update["ready"]:
                if finished:
                    self._model.texts.add(self.key, size, text)
            yield update | {"key": self.key}

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
                yield update | {"key": self.key, "ready": [[sizes[i], text, True]]}
