"""Measuring what is loaded on this machine: perplexity at a size, speed at all sizes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, ClassVar

from ..evaluation.perplexity import Perplexity
from ..figures.size_table import LARGEST_PERCENT
from ..generation.speed import measure_speeds
from .job import Job
from .messages import Message, measurement
from .model_service import MEASURED_WINDOWS, ModelService
from .visitors import Run

_SPEED_STEP = 10  # percent between two sizes whose speed is measured


class PerplexityJob(Job):
    """Perplexity at a size on held-out text, window by window, corpora in turn."""

    kind = "measurement"
    nothing: ClassVar[Message] = {"points": []}

    def __init__(self, model: ModelService, percent: Any):
        super().__init__()
        self._model, self._asked = model, percent

    def check(self) -> None:
        self.percent, self.plan = self._model.plan(self._asked)
        self.common.update(percent=self.percent, ratio=self.plan.ratio)

    def messages(self, run: Run) -> Iterator[Message]:
        model, percent = self._model, self.percent
        yield {"points": [], "state": "running", "status": f"Measuring {percent} %: reading held-out text …"}
        found: dict[str, Perplexity] = {}
        total = MEASURED_WINDOWS * len(model.corpora)
        streams = [self._measured(corpus, run) for corpus in model.corpora]
        for corpus, value in (pair for turn in zip_longest(*streams) for pair in turn if pair is not None):
            found[corpus] = value
            yield measurement(percent, found, "running", total, model.window)
        yield measurement(percent, found, "stopped" if run.cancel.is_set() else "done", total, model.window)

    def _measured(self, corpus: str, run: Run) -> Iterator[tuple[str, Perplexity]]:
        for value in self._model.engine.measure(self._model.windows(corpus), self.plan, run.cancel):
            yield corpus, value


class SpeedJob(Job):
    """Tokens per second at sizes all over the slider."""

    kind = "speed"

    def __init__(self, model: ModelService):
        super().__init__()
        self._model = model

    def messages(self, run: Run) -> Iterator[Message]:
        measuring: Message = {"state": "running", "status": "Measuring the speed of every size …"}
        self.common["speeds"] = {}
        yield measuring
        smallest = self._model.smallest
        sizes = sorted({*range(LARGEST_PERCENT, smallest, -_SPEED_STEP), smallest})
        plans = [self._model.plan(size)[1] for size in sizes]
        for speeds in measure_speeds(self._model.engine, plans, run.cancel):
            self.common["speeds"] = {str(size): speed for size, speed in zip(sizes, speeds, strict=True)}
            yield measuring
        yield {"state": "done", "status": "Speed measured on this machine, one sequence at a time."}
