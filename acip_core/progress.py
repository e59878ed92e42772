"""Progress of long computations, yielded by generators and drawn by whoever runs them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """One step of a long computation: `done` of `total` units of `stage`, with a short note."""

    stage: str
    done: int
    total: int
    note: str = ""


Steps = Generator[Progress, None, T]


def finish(steps: Steps[T], on_progress: Callable[[Progress], None] | None = None) -> T:
    """Run a computation to its end and return its result, passing every progress step on."""
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return stop.value
        if on_progress is not None:
            on_progress(step)
