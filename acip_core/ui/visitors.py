"""Who is running what: at most one completion and one measurement per visitor; the newest replaces the former.

Knows nothing of gradio; a session is any string.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Run:
    """One completion or measurement.

    Attributes:
        id: grows from run to run, also over restarts of the server, so that a page drops what comes late.
        cancel: set when the run is replaced, stopped or its visitor gone.
    """

    id: int
    cancel: threading.Event = field(default_factory=threading.Event)


class Visitors:
    """All visitors' current runs; safe to use from many threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._runs: dict[str, dict[str, Run]] = {}
        self._last_id = 0

    def begin(self, session: str, kind: str) -> Run:
        """Start a run of this kind, cancelling the visitor's former one."""
        with self._guard:
            self._last_id = max(self._last_id + 1, time.time_ns() // 1000)  # stays below 2⁵³, exact in JavaScript
            run = Run(self._last_id)
            former = self._runs.setdefault(session, {}).get(kind)
            self._runs[session][kind] = run
        if former is not None:
            former.cancel.set()
        return run

    def is_newest(self, session: str, kind: str, run: Run) -> bool:
        """Whether no later run of this kind has begun and the visitor is still there."""
        with self._guard:
            return self._runs.get(session, {}).get(kind) is run

    def stop(self, session: str, kind: str) -> None:
        """Cancel the visitor's run of this kind, if any."""
        with self._guard:
            run = self._runs.get(session, {}).get(kind)
        if run is not None:
            run.cancel.set()

    def end(self, session: str, kind: str, run: Run) -> None:
        """Forget a run that is over, unless a later one took its place."""
        with self._guard:
            runs = self._runs.get(session, {})
            if runs.get(kind) is run:
                del runs[kind]
            if not runs:
                self._runs.pop(session, None)

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
        return len(self._runs)
