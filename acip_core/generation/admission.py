"""A queue: a few callers at a time, as many as memory holds, always in the order they came."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import GenerationError


@dataclass(eq=False)
class _Ticket:
    tokens: int
    admitted: bool = False


class AdmissionQueue:
    """Admits callers while there is room; the others wait, and a full queue refuses further ones.

    Attributes:
        active: callers admitted at once.
        waiting: callers in the queue at most.
        tokens: that all admitted callers together may keep in memory.
    """

    def __init__(self, active: int, waiting: int, tokens: int):
        self.active, self.waiting, self.tokens = active, waiting, tokens
        self._changed = threading.Condition()
        self._tickets: list[_Ticket] = []

    @contextmanager
    def ticket(self, tokens: int) -> Iterator[_Ticket]:
        """A place at the end of the queue, given up with the block.

        Args:
            tokens: that the caller will keep in memory.

        Raises:
            GenerationError: the queue is full.
        """
        ticket = _Ticket(tokens)
        with self._changed:
            ahead = sum(not other.admitted for other in self._tickets)
            if ahead >= self.waiting:
                raise GenerationError(f"The model is busy and {ahead} are waiting already; try again in a moment.")
            self._tickets.append(ticket)
            self._admit()
        try:
            yield ticket
        finally:
            with self._changed:
                self._tickets = [other for other in self._tickets if other is not ticket]
                self._admit()
                self._changed.notify_all()

    def ahead(self, ticket: _Ticket, seconds: float = 0.0) -> int:
        """Callers that must finish before this one; 0 once it is admitted, for which to wait up to `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: ticket.admitted, timeout=seconds)
            if ticket.admitted:
                return 0
            return [other for other in self._tickets if not other.admitted].index(ticket) + 1

    def _admit(self) -> None:
        admitted = [other for other in self._tickets if other.admitted]
        used, count = sum(other.tokens for other in admitted), len(admitted)
        for other in self._tickets:
            if other.admitted:
                continue
            if count >= self.active or (count and used + other.tokens > self.tokens):
                return  # whoever is next waits for room, and nobody overtakes
            other.admitted = True
            used, count = used + other.tokens, count + 1
