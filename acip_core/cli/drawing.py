"""What the command line shows: progress on a terminal or as lines of a log, sentences, tables.

Rich is imported with the first of these, so that the page answers its first visitor before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from ..progress import Progress, Steps, finish

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

T = TypeVar("T")
_LINE_SECONDS = 30


@lru_cache
def console() -> Console:
    """The terminal's error stream, where everything goes that is no result."""
    from rich.console import Console

    return Console(stderr=True)


def say(sentence: str, title: str = "", on: Console | None = None) -> None:
    """A sentence on the terminal, as it is: nothing in it is taken for colours.

    Args:
        title: a word in front of it, in red.
        on: where; the error stream by default.
    """
    from rich.markup import escape

    parts = [f"[bold red]{title}[/]"] if title else []
    (on or console()).print(*parts, escape(sentence), highlight=False, soft_wrap=True)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on the standard output."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*map(escape, columns))
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def is_main_process() -> bool:
    """Whether this process is the one of several (`accelerate launch`) that shows and publishes what all do."""
    return os.environ.get("RANK", "0") == "0"


def draw(
    steps: Steps[T],
    also: Callable[[Progress], None] | None = None,
    on: Console | None = None,
    transient: bool = False,
) -> T:
    """Run a computation with a progress bar per stage (done, elapsed, left, note); lines without a terminal.

    Args:
        also: called with every step.
        on: where it is drawn; the error stream by default.
        transient: remove the bars when it is done.
    """
    if not is_main_process():
        return finish(steps, also)
    on = on or console()
    if not on.is_terminal:
        return finish(steps, _both(lines(on), also))
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Bars(*columns, console=on, speed_estimate_period=120, transient=transient) as bars:
        return finish(steps, _both(_drawer(bars), also))


def _both(show: Callable[[Progress], None], also: Callable[[Progress], None] | None) -> Callable[[Progress], None]:
    def tell(step: Progress) -> None:
        show(step)
        if also is not None:
            also(step)

    return tell


def lines(on: Console | None = None) -> Callable[[Progress], None]:
    """A line at the start and end of every stage and every half minute between, for logs."""
    began: dict[str, float] = {}
    printed = 0.0

    def show(step: Progress) -> None:
        nonlocal printed
        now = time.monotonic()
        if step.stage not in began or step.done == step.total or now - printed > _LINE_SECONDS:
            printed = now
            seconds = now - began.setdefault(step.stage, now)
            say(f"{step.stage} {step.done}/{step.total}, {seconds:.0f} s, {step.note}", on=on)

    return show


def _drawer(bars: Bars) -> Callable[[Progress], None]:
    tasks: dict[str, int] = {}

    def show(step: Progress) -> None:
        if step.stage not in tasks:
            tasks[step.stage] = bars.add_task(step.stage, total=step.total, note="", completed=max(0, step.done - 1))
        bars.update(tasks[step.stage], completed=step.done, total=step.total, note=step.note)  # type: ignore[arg-type]

    return show
