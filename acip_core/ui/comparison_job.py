"""Completions of one prompt at several sizes, written in step and judged by the full model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from ..errors import GenerationError
from ..model.tracks import LARGEST_PERCENT, Track
from .columns import Column
from .job import STARTING, Job
from .messages import FRAME_SECONDS, Message, columns_shown, token_status
from .model_service import ModelService
from .requests import CompletionConfig, completion_request, percents_of
from .visitors import Run

MOST_COLUMNS = 5


def comparable(track: Track) -> list[tuple[str, int]]:
    """Sizes to choose from, the largest first: what each is called, and its percentage."""
    sizes = range(LARGEST_PERCENT, math.ceil(track.percents[0]) - 1, -1)
    return [(track.named(size), size) for size in sizes]


class ComparisonJob(Job):
    """Two to five sizes side by side, every token with the probability that the full model gives it."""

    kind = "comparison"
    failed = "Not compared"
    nothing: ClassVar[Message] = {"columns": []}

    def __init__(self, model: ModelService, prompt: Any, percents: Any, settings: CompletionConfig):
        super().__init__()
        self._model, self._asked = model, (prompt, percents, settings)

    def check(self) -> None:
        prompt, percents, settings = self._asked
        self.request = completion_request(prompt, settings)
        self.common |= {"prompt": self.request.prompt, "shown": self.request.shown}
        self.take_mode(self._model, settings.mode)
        sizes = sorted({self.track.plan_at(percent)[0] for percent in percents_of(percents)}, reverse=True)
        if not 2 <= len(sizes) <= MOST_COLUMNS:
            raise GenerationError(f"Choose two to {MOST_COLUMNS} different sizes to compare, not {len(sizes)}.")
        self.columns = [Column(size) for size in sizes]

    def messages(self, run: Run) -> Iterator[Message]:
        columns = self.columns
        yield STARTING | {"columns": columns_shown(columns, columns[0])}
        # The full model's own text is written with them, also where it is not shown.
        full = columns[0] if columns[0].percent == LARGEST_PERCENT else Column(LARGEST_PERCENT)
        running = columns if full is columns[0] else [*columns, full]
        first, shown = time.monotonic(), 0.0
        sizes = [column.percent for column in running]
        steps = self._model.side_by_side(self.request, self.track, sizes, run, judge=True)
        for step in steps:
            for i, token in step.items():
                running[i].add(token)
            now, latest = time.monotonic(), next(iter(step.values()))
            first = now if latest.count == 1 or latest.ahead else first
            ended = all(column.finish for column in running)
            if ended or latest.count <= 1 or now - shown >= FRAME_SECONDS:
                shown = now
                state = "running" if not ended else "stopped" if latest.finish == "stopped" else "done"
                status = token_status(replace(latest, finish=latest.finish if ended else ""), now - first)
                yield {"columns": columns_shown(columns, full), "state": state, "status": status}
