"""Memory that is free goes back to the system, and so do pages of files that were used a while ago.

A text's cache grows by a token at a time, many texts at once, and leaves the C library's heap full of holes: after ten
minutes of twelve visitors a third of the process was memory that nothing used. Factors and codes lie in files: of all
that ever ran only what runs now has to be resident.
"""

from __future__ import annotations

import threading
import time

from ..storage.heap import give_heap_back
from ..storage.mapped import give_pages_back

# Seconds between two times. What runs has read its pages again after some ten milliseconds.
_PAUSES = {"heap": 5.0, "pages": 1.0}
_SHARE = 0.1  # of all factors and codes, which may become resident while something runs: more than one size of codes

_due: dict[str, float] = {}  # on the monotonic clock
_later: threading.Timer | None = None
_guard = threading.Lock()


def give_back() -> None:
    """Give free memory and pages of files back: now, or if that was done just now, once for all a little later."""
    global _later
    if wait := _wait("heap"):
        with _guard:
            if _later is None:
                _later = threading.Timer(wait, _catch_up)
                _later.daemon = True
                _later.start()
        return
    give_pages_back()
    give_heap_back()


def _catch_up() -> None:
    global _later
    with _guard:
        _later = None
    give_back()


def give_pages() -> None:
    """Give pages of files back where many have become resident, if that was not done just now."""
    if not _wait("pages"):
        give_pages_back(_SHARE)


def _wait(what: str) -> float:
    """Seconds until it is due; 0 where it is now, which is then the last time."""
    with _guard:
        now = time.monotonic()
        if now < (due := _due.get(what, 0.0)):
            return due - now
        _due[what] = now + _PAUSES[what]
        return 0.0
