"""The states in force: one for each elastic layer of a model, replaced as a whole and never edited.

A layer's state is one number: a rank, `DENSE`, or that of codes (`operating_points.coded_state`); in a batch whose
sequences run at different sizes, `Ranks` or `Segments`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
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
        mask: (sequences after `dense`, 1, a + largest rank), 1 up to a sequence's own rank and 0 beyond.
    """

    dense: int
    ranks: tuple[int, ...]
    mask: torch.Tensor


@dataclass(frozen=True)
class Segments:
    """One layer's states in a batch in which some run codes: how many neighbouring sequences run at which state."""

    states: tuple[tuple[int, int], ...]


State = int | Ranks | Segments


def runs(state: State, count: int) -> list[tuple[slice, tuple[int, ...]]]:
    """Neighbouring sequences of a batch that run the same way, and the state of each: all dense, all codes of one
    level, or ranks that do not rise.

    Args:
        count: sequences of the batch.
    """
    if isinstance(state, int):
        return [(slice(0, count), (state,) * count)]
    if isinstance(state, Ranks):
        dense, ranked = slice(0, state.dense), slice(state.dense, count)
        return [(dense, (DENSE,) * state.dense)] * bool(state.dense) + [(ranked, state.ranks)]
    ends = [*accumulate(many for many, _ in state.states)]
    return [(slice(end - many, end), (one,) * many) for end, (many, one) in zip(ends, state.states, strict=True)]


Ranking = tuple[State, ...]  # one per elastic layer of a model, then one for each coded table


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
