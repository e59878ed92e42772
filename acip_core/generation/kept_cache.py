"""Keys and values of a text in memory that is taken once: new tokens are written behind the old ones, in place.

A cache that is joined anew at every token copies the whole text each time; this one copies when its room runs out.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

_GROWTH = 1.5  # times as many tokens as are held, where more come than were expected


class KeptLayer(DynamicLayer):
    """A layer of a `DynamicCache` whose keys and values (sequences, heads, tokens, features) are views of more room.

    Args:
        room: tokens to take memory for at first.

    Attributes:
        taken: keys and values with the room behind them, None before the first token.
    """

    def __init__(self, room: int):
        self.taken: tuple[torch.Tensor, torch.Tensor] | None = None
        self._length, self._room = 0, room
        super().__init__()

    @property
    def keys(self) -> torch.Tensor | None:
        return None if self.taken is None else self.taken[0][:, :, : self._length]

    @keys.setter
    def keys(self, held: torch.Tensor | None) -> None:
        """What a text holds from now on: rows that were selected, or fewer tokens; values follow."""
        if held is not None:
            self.taken = held, held if self.taken is None else self.taken[1]
            self._length = held.shape[-2]

    @property
    def values(self) -> torch.Tensor | None:
        return None if self.taken is None else self.taken[1][:, :, : self._length]

    @values.setter
    def values(self, held: torch.Tensor | None) -> None:
        if held is not None:
            assert self.taken is not None
            self.taken = self.taken[0], held

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True

    def get_seq_length(self) -> int:
        return self._length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        before, count = self._length, key_states.shape[-2]
        keys, values = self.extend(count, key_states, value_states)
        keys[:, :, before : before + count] = key_states
        values[:, :, before : before + count] = value_states
        return keys[:, :, : before + count], values[:, :, : before + count]

    def extend(self, count: int, *like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`taken` with room for as many further tokens, which the text has from now on and the caller writes.

        Args:
            like: keys and values of the shape (sequences, heads, _, features), for the first tokens.
        """
        if like and not self.is_initialized:
            self.lazy_initialization(*like)
        after = self._length + count
        if self.taken is None or after > self.taken[0].shape[-2]:
            room = max(self._room, after if self._length == 0 else int(_GROWTH * after))
            fresh = [t.new_empty(*t.shape[:2], room, t.shape[-1]) for t in like or self.taken or ()]
            if self.taken is not None:
                for new, old in zip(fresh, self.taken, strict=True):
                    new[:, :, : self._length] = old[:, :, : self._length]
            self.taken = fresh[0], fresh[1]
        self._length = after
        return self.taken
