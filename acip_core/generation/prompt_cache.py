"""What short prompts left behind: keys and values, so that the same prompt at the same size is not read again.

On a page most visitors ask for one of a few prompts, and come back to sizes where they were.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch

from ..model.size_planner import Plan
from .cache import TextCache


class PromptCache:
    """The latest prompts and the sizes at which they were read; safe to use from many threads.

    Valid as long as the model's weights stay as they are.

    Args:
        room: tokens to keep in all.
    """

    def __init__(self, room: int):
        self._room, self._held = room, 0
        self._guard = threading.Lock()
        self._kept: OrderedDict[tuple[Plan, tuple[int, ...]], torch.Tensor] = OrderedDict()

    def fill(self, cache: TextCache, plan: Plan, ids: Sequence[int]) -> int:
        """Put into an empty cache of keys and values what is known of a prompt at a size.

        Returns:
            Tokens that need not be read: none, or all but the last, whose logits are wanted.
        """
        *start, _ = ids
        with self._guard:
            known = self._kept.get((plan, tuple(start)))
            if known is None:
                return 0
            self._kept.move_to_end((plan, tuple(start)))
        for layer, (keys, values) in zip(cast(Any, cache).layers, known, strict=True):
            layer.update(keys, values)
        return len(start)

    def keep(self, cache: TextCache, plan: Plan, ids: Sequence[int]) -> None:
        """Remember a prompt that has just been read into a cache; of those beyond the room the oldest go."""
        *start, _ = ids
        pairs = ((layer.keys, layer.values) for layer in cast(Any, cache).layers)
        states = torch.stack([held[:, :, : len(start)] for pair in pairs for held in pair])
        with self._guard:
            before = self._kept.pop((plan, tuple(start)), None)
            self._held += len(start) if before is None else 0
            self._kept[plan, tuple(start)] = states.unflatten(0, (-1, 2))
            while self._held > self._room:
                (_, oldest), _ = self._kept.popitem(last=False)
                self._held -= len(oldest)
