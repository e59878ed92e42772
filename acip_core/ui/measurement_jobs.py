"""Measuring what is loaded on this machine: perplexity at a size, speed at all sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import Any, ClassVar

from ..evaluation.perplexity import Perplexity
from ..generation.speed import measure_speeds
from .job import Job
from .messages import Message, measurement, thinned
from .model_service import MEASURED_WINDOWS, ModelService
from .visitors import Run


class PerplexityJob(Job):
    """Perplexity at a size on held-out text, window by window, corpora in turn."""

    kind = "measurement"
    nothing: ClassVar[Message] = {"points": []}

    def __init__(self, model: ModelService, percent: Any, mode: Any = ""):
        super().__init__()
        self._model, self._asked = model, (percent, mode)

    def check(self) -> None:
        self.take_size(self._model, *self._asked)
        self.common.update(ratio=self.plan.ratio, bytes=self.plan.bytes)

    def messages(self, run: Run) -> Iterator[Message]:
        model, named = self._model, self.track.named(self.percent)
        yield {"points": [], "state": "running", "status": f"Measuring {named}: reading held-out text …"}
        found: dict[str, Perplexity] = {}
        total = MEASURED_WINDOWS * len(model.corpora)
        streams = [self._measured(corpus, run) for corpus in model.corpora]
        for _ in thinned(self._kept(found, streams)):
            yield measurement(named, found, "running", total, model.window)
        yield measurement(named, found, "stopped" if run.cancel.is_set() else "done", total, model.window)

    def _kept(
        self, found: dict[str, Perplexity], streams: Sequence[Iterator[tuple[str, Perplexity]]]
    ) -> Iterator[None]:
        for corpus, value in (pair for turn in zip_longest(*streams) for pair in turn if pair is not None):
            found[corpus] = value
            yield

    def _measured(self, corpus: str, run: Run) -> Iterator[tuple[str, Perplexity]]:
        for value in self._model.engine.measure(self._model.windows(corpus), self.plan, run.cancel):
            yield corpus, value


class SpeedJob(Job):
    """Tokens per second at sizes all over the slider."""

    kind = "speed"

    def __init__(self, model: ModelService, mode: Any = ""):
        super().__init__()
        self._model, self._asked = model, mode

    def check(self) -> None:
        self.take_mode(self._model, self._asked)

    def messages(self, run: Run) -> Iterator[Message]:
        measuring: Message = {"state": "running", "status": "Measuring the speed of every size …"}
        self.common["speeds"] = {}
        yield measuring
        positions = self.track.distinct
        # The one below the full model, too: a line between measured sizes must not run across what parts these two.
        sizes = sorted({*positions[:: 2 * self.track.step], *positions[1:2], positions[-1]})
        plans = [self.track.plan_at(size)[1] for size in sizes]
        speeds: list[float] = []
        for speeds in measure_speeds(self._model.engine, plans, run.cancel):
            self.common["speeds"] = {str(size): speed for size, speed in zip(sizes, speeds, strict=True)}
            yield measuring
        found = zip(sizes, speeds, strict=False)  # none where it was cancelled early
        slower = [self.track.named(size) for (size, speed), (_, larger) in pairwise(found) if speed < larger]
        note = f" {_listed(slower)} came out slower than the next larger size." if slower else ""
        yield {"state": "done", "status": f"Speed measured on this machine, one sequence at a time.{note}"}


def _listed(names: Sequence[str]) -> str:
    return " and ".join([*filter(None, [", ".join(names[:-1])]), names[-1]])
