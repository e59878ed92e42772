"""Who is running what: at most one run of each kind per visitor; the one that was asked for last replaces the others.

Requests are numbered as they arrive, because the threads that run them start in any order.
Knows nothing of gradio; a session is any string.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_REMEMBERED = 4096  # sessions and kinds; requests overtake each other by milliseconds
_LOST_SECONDS = 600.0  # a run that took no step for so long has nobody left to end it


@dataclass(eq=False)
class Run:
    """One completion, measurement or the like.

    Attributes:
        id: its place in the order of arrival; grows over restarts of the server, too, so that a page drops what comes
            late.
        cancel: set when the run is replaced, stopped or its visitor gone.
        seen: when it took its latest step, on the monotonic clock.
    """

    id: int
    cancel: threading.Event = field(default_factory=threading.Event)
    seen: float = field(default_factory=time.monotonic)


class Visitors:
    """All visitors' current runs; safe to use from many threads."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._runs: dict[str, dict[str, Run]] = {}
        self._last_id = 0
        self._begun, self._stopped = _Latest(), _Latest()

    def arrive(self) -> int:
        """The next place in the order of arrival."""
        with self._guard:
            self._last_id = max(self._last_id + 1, time.time_ns() // 1000)  # stays below 2⁵³, exact in JavaScript
            return self._last_id

    @contextmanager
    def running(self, session: str, kind: str, arrival: int | None = None) -> Iterator[Run]:
        """A run from its beginning to its end, whatever ends it.

        It cancels the visitor's earlier one of this kind. One that arrived before another that has begun is cancelled
        itself, as is one that arrived before it was stopped.

        Args:
            arrival: as `arrive`, now by default.
        """
        run = Run(arrival or self.arrive())
        try:
            self._begin(session, kind, run)
            yield run
        finally:
            self._end(session, kind, run)

    def _begin(self, session: str, kind: str, run: Run) -> None:
        with self._guard:
            self._expire()
            if run.id < self._begun.get(session, kind):
                run.cancel.set()
                return
            self._begun.put(session, kind, run.id)
            if run.id < self._stopped.get(session, kind):
                run.cancel.set()
            former = self._runs.setdefault(session, {}).get(kind)
            self._runs[session][kind] = run
        if former is not None:
            former.cancel.set()

    def _end(self, session: str, kind: str, run: Run) -> None:
        """Forget a run that is over, unless a later one took its place."""
        with self._guard:
            runs = self._runs.get(session, {})
            if runs.get(kind) is run:
                del runs[kind]
            if not runs:
                self._runs.pop(session, None)

    def is_newest(self, session: str, kind: str, run: Run) -> bool:
        """Whether no later run of this kind has begun and the visitor is still there; a step of the run."""
        run.seen = time.monotonic()
        with self._guard:
            return self._runs.get(session, {}).get(kind) is run

    def stop(self, session: str, kind: str, arrival: int | None = None) -> None:
        """Cancel the visitor's run of this kind, unless it arrived later than this.

        Args:
            arrival: as `running`.
        """
        arrival = arrival or self.arrive()
        with self._guard:
            self._stopped.put(session, kind, arrival)
            run = self._runs.get(session, {}).get(kind)
        if run is not None and run.id < arrival:
            run.cancel.set()

    def leave(self, session: str) -> None:
        """Cancel everything of a visitor who closed the page, and forget them."""
        with self._guard:
            runs = self._runs.pop(session, {})
        for run in runs.values():
            run.cancel.set()

    def leave_all(self) -> None:
        """Cancel everything: the page is closing."""
        for session in tuple(self._runs):
            self.leave(session)

    @property
    def count(self) -> int:
        """Visitors with something running."""
        with self._guard:
            self._expire()
            return len(self._runs)

    def _expire(self) -> None:
        """Forget visitors whose runs were lost."""
        now = time.monotonic()
        for session, runs in tuple(self._runs.items()):
            if all(now - run.seen > _LOST_SECONDS for run in runs.values()):
                self.leave(session)


class _Latest:
    """A number by session and kind; those that were put longest ago make room."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], int] = OrderedDict()

    def get(self, session: str, kind: str) -> int:
        return self._kept.get((session, kind), 0)

    def put(self, session: str, kind: str, number: int) -> None:
        self._kept[session, kind] = max(number, self.get(session, kind))
        self._kept.move_to_end((session, kind))
        if len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)
