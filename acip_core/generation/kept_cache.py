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
    """

    def __init__(self, room: int):
        super().__init__()
        self._room = room
        self._taken: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        keys, values = self._at_least(after, key_states, value_states, before)
        keys[:, :, before:after] = key_states
        values[:, :, before:after] = value_states
        self.keys, self.values = keys[:, :, :after], values[:, :, :after]
        return self.keys, self.values

    def _at_least(
        self, tokens: int, key_states: torch.Tensor, value_states: torch.Tensor, before: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Room for so many tokens that begins with what is held."""
        if self._taken is not None and self._holds(self._taken, tokens):
            return self._taken
        room = max(self._room, tokens if before == 0 else int(_GROWTH * tokens))
        taken = []
        for held, new in zip(self._held(), (key_states, value_states), strict=True):
            fresh = new.new_empty(*new.shape[:2], room, new.shape[-1])
            if before:
                fresh[:, :, :before] = held
            taken.append(fresh)
        self._taken = taken[0], taken[1]
        return self._taken

    def _holds(self, taken: tuple[torch.Tensor, torch.Tensor], tokens: int) -> bool:
        """Whether the text still lies there: rows that were selected are tensors of their own."""
        lies = all(
            held.data_ptr() == room.data_ptr() and len(held) == len(room)
            for held, room in zip(self._held(), taken, strict=True)
        )
        return lies and tokens <= taken[0].shape[-2]

    def _held(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None and self.values is not None
        return self.keys, self.values
