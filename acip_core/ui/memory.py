"""Memory that is free goes back to the system.

A text's cache grows by a token at a time, many texts at once, and leaves the C library's heap full of holes: after ten
minutes of twelve visitors a third of the process was memory that nothing used.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import cast

_PAUSE_SECONDS = 5.0  # between two times; one takes some tens of milliseconds, in which allocations may wait

_due = 0.0  # on the monotonic clock
_guard = threading.Lock()


def _trim() -> Callable[[int], int] | None:
    try:
        return cast("Callable[[int], int]", ctypes.CDLL(None).malloc_trim)
    except (AttributeError, OSError, TypeError):  # another C library than glibc
        return None


_malloc_trim = _trim()


def give_back() -> None:
    """Give free memory back, if that was not done just now."""
    global _due
    if _malloc_trim is None:
        return
    with _guard:
        now = time.monotonic()
        if now < _due:
            return
        _due = now + _PAUSE_SECONDS
    _malloc_trim(0)
