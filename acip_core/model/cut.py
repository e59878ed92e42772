"""The states in force: one for each elastic layer of a model, replaced as a whole and never edited.

A layer's state is one number: a rank, `DENSE`, or that of codes (`operating_points.coded_state`); in a batch whose
sequences run at different sizes, `Ranks` or `Segments`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from threading import local
from typing import Any

import torch

from .size_planner import DENSE


@dataclass(frozen=True)
class Ranks:
    """One layer's ranks in a batch.

    Attributes:
        dense: sequences at the front of the batch that run the dense weight.
        ranks: of all others, descending.
        make_mask: makes `mask`, which native code does without.
    """

    dense: int
    ranks: tuple[int, ...]
    make_mask: Callable[[], torch.Tensor] = field(compare=False, repr=False)

    @cached_property
    def mask(self) -> torch.Tensor:
        """(sequences after `dense`, 1, a + largest rank), 1 up to a sequence's own rank and 0 beyond."""
        with torch.inference_mode(False):
            return self.make_mask()


@dataclass(frozen=True)
class Segments:
    """One layer's states in a batch in which some run codes: how many neighbouring sequences run at which state."""

    states: tuple[tuple[int, int], ...]


State = int | Ranks | Segments


Ranking = Sequence[State]  # one per elastic layer of a model, then one for each coded table


class BatchStates(Sequence[State]):
    """The states of a batch, of which each is made when its layer first asks for it.

    Attributes:
        rows: the states of each sequence, as many as there are layers, or fewer where no table is coded.

    Args:
        makers: of each layer, what makes its state of those of its sequences.
    """

    def __init__(self, rows: Sequence[tuple[int, ...]], makers: Sequence[Callable[[Sequence[int]], State]]):
        self.rows, self._makers = rows, makers
        self._made: dict[int, State] = {}

    def __len__(self) -> int:
        return len(self._makers)

    def __getitem__(self, index: Any) -> Any:
        if index not in self._made:
            known = [row[index] if index < len(row) else DENSE for row in self.rows]
            self._made[index] = self._makers[index](known)
        return self._made[index]


class _ThreadRanks(local):
    """The ranks of one thread: those of an `on_this_thread` block, and those that its running pass began with."""

    ranks: Ranking | None = None
    held: Ranking | None = None


class Cut:
    """The ranks in force; replaced as a whole, never edited.

    A thread may run at other ranks than those set for all threads, and a pass runs to its end at the ranks it began
    with, whatever other threads set meanwhile.
    """

    def __init__(self, layers: int):
        self._set: Ranking = (DENSE,) * layers
        self._thread = _ThreadRanks()

    @property
    def ranks(self) -> Ranking:
        """Those of this thread or of its pass, otherwise those that were set for all."""
        return self._thread.ranks or self._thread.held or self._set

    @ranks.setter
    def ranks(self, ranks: Ranking) -> None:
        self._set = ranks

    @contextmanager
    def on_this_thread(self, ranks: Ranking) -> Iterator[None]:
        """Within the block, this thread runs at these ranks."""
        before, self._thread.ranks = self._thread.ranks, ranks
        try:
            yield
        finally:
            self._thread.ranks = before

    def hold(self, *_: Any) -> None:
        """A pass begins on this thread (a hook in front of the model's forward)."""
        self._thread.held = self._set

    def release(self, *_: Any) -> None:
        """The pass has ended (a hook behind the model's forward)."""
        self._thread.held = None

    def __reduce__(self) -> tuple[Any, ...]:  # copies and files have the ranks that were set
        return Cut, (0,), {"_set": self._set}
