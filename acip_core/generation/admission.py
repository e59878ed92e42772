"""A waiting line: a few callers at a time, as many as memory holds, always in the order they came."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import GenerationError


@dataclass(eq=False)
class _Place:
    tokens: int
    admitted: bool = False


class AdmissionQueue:
    """Admits callers while there is room; the others wait in line, and when that is full nobody joins.

    Attributes:
        active: callers admitted at once.
        waiting: callers in line at most.
        tokens: that all admitted callers together may keep in memory.
    """

    def __init__(self, active: int, waiting: int, tokens: int):
        self.active, self.waiting, self.tokens = active, waiting, tokens
        self._changed = threading.Condition()
        self._places: list[_Place] = []

    @contextmanager
    def place(self, tokens: int) -> Iterator[_Place]:
        """A place at the end of the line, given up with the block.

        Args:
            tokens: that the caller will keep in memory.

        Raises:
            GenerationError: the line is full.
        """
        mine = _Place(tokens)
        with self._changed:
            ahead = sum(not place.admitted for place in self._places)
            if ahead >= self.waiting:
                raise GenerationError(f"The model is busy and {ahead} are waiting already; try again in a moment.")
            self._places.append(mine)
            self._admit()
        try:
            yield mine
        finally:
            with self._changed:
                self._places = [place for place in self._places if place is not mine]
                self._admit()
                self._changed.notify_all()

    def ahead(self, mine: _Place, seconds: float = 0.0) -> int:
        """Callers that must finish before this one; 0 once it is admitted, for which to wait up to `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: mine.admitted, timeout=seconds)
            if mine.admitted:
                return 0
            return [place for place in self._places if not place.admitted].index(mine) + 1

    def _admit(self) -> None:
        admitted = [place for place in self._places if place.admitted]
        used, count = sum(place.tokens for place in admitted), len(admitted)
        for place in self._places:
            if place.admitted:
                continue
            if count >= self.active or (count and used + place.tokens > self.tokens):
                return  # whoever is next waits for room, and nobody overtakes
            place.admitted = True
            used, count = used + place.tokens, count + 1
