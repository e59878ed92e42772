"""The full model's probability for every token that other sizes write, a slice of tokens at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from .cache import TextCache, select_rows

if TYPE_CHECKING:
    from .tokens import Token

SLICE = 16  # tokens that wait to be read together: a slice costs the full model little more than one token
Forward = Callable[[torch.Tensor, TextCache, int], torch.Tensor]  # ids, cache, positions kept → logits


def with_full_model_probabilities(
    steps: Iterator[dict[int, Token]], prompt: list[int], forward: Forward, cache: TextCache, chunk: int
) -> Iterator[dict[int, Token]]:
    """The same steps; some tokens carry the full model's probabilities of the tokens since the last such one.

    Args:
        steps: tokens by column, all columns starting together.
        forward: a pass of the full model.
        cache: an empty one for the full model.
        chunk: tokens of the prompt per pass.
    """
    waiting: dict[int, list[int]] = {}
    reader: _Reader | None = None
    for step in steps:
        for i, token in step.items():
            if token.id is not None:
                waiting.setdefault(i, []).append(token.id)
        ended = [i for i, token in step.items() if token.finish]
        if not any(waiting.values()) or not (ended or max(map(len, waiting.values())) >= SLICE):
            yield step
            continue
        reader = reader or _Reader(prompt, len(waiting), forward, cache, chunk)
        known = dict(zip(waiting, reader.read(list(waiting.values())), strict=True))
        yield {i: replace(token, probabilities=known.get(i, ())) for i, token in step.items()}
        reader.keep([row for row, i in enumerate(waiting) if i not in ended])
        waiting = {i: [] for i in waiting if i not in ended}


class _Reader:
    """The full model reading several continuations of one prompt in a batch."""

    def __init__(self, prompt: list[int], rows: int, forward: Forward, cache: TextCache, chunk: int):
        self._forward, self._cache = forward, cache
        logits = torch.empty(0)
        for start in range(0, len(prompt), chunk):
            logits = forward(torch.tensor([prompt[start : start + chunk]]), cache, 1)
        select_rows(cache, torch.zeros(rows, dtype=torch.long))
        self._next = logits[:, -1:].expand(rows, -1, -1)  # (rows, 1, vocabulary): of the token that comes next

    def read(self, rows: list[list[int]]) -> list[tuple[float, ...]]:
        """Probability of every token; rows that are shorter than others end here."""
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        logits = self._forward(ids, self._cache, 0)  # (rows, longest, vocabulary)
        before = torch.cat([self._next, logits[:, :-1]], dim=1).float()
        self._next = logits[:, -1:]
        scores = before.gather(-1, ids.to(before.device)[..., None]).squeeze(-1) - before.logsumexp(-1)
        return [tuple(row[: len(ids_of_row)]) for row, ids_of_row in zip(scores.exp().tolist(), rows, strict=True)]

    def keep(self, rows: list[int]) -> None:
        """Continue these rows alone."""
        if rows and len(rows) < len(self._next):
            index = torch.tensor(rows, device=self._next.device)
            select_rows(self._cache, index)
            self._next = self._next[index]
