"""Free memory of the C library's heap goes back to the system, which it otherwise keeps for later."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import cast


def _trim() -> Callable[[int], int] | None:
    try:
        return cast("Callable[[int], int]", ctypes.CDLL(None).malloc_trim)
    except (AttributeError, OSError, TypeError):  # another C library than glibc
        return None


_malloc_trim = _trim()


def give_heap_back() -> None:
    """Give back all holes between what is in use; takes some tens of milliseconds, in which allocations may wait."""
    if _malloc_trim is not None:
        _malloc_trim(0)
