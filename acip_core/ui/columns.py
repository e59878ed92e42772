"""What the compare view shows of one prompt at several sizes: their tokens, where they part from the full model's.

Knows nothing of gradio or of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..generation.tokens import Token


@dataclass
class Column:
    """The text of one size so far.

    Attributes:
        texts, ids: of its tokens; the text is empty while a character is incomplete.
        probabilities: that the full model gives these tokens, as far as it has read them.
        finish: as `generate.Token`.
    """

    percent: float
    texts: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    finish: str = ""

    def add(self, token: Token) -> None:
        """Take one step of its stream."""
        if token.id is not None:
            self.ids.append(token.id)
            self.texts.append(token.text)
        elif token.text and self.texts:
            self.texts[-1] += token.text
        self.probabilities += token.probabilities
        self.finish = token.finish

    def message(self, full: Column) -> dict[str, Any]:
        """What the page shows of it.

        Args:
            full: the full model's own text so far.

        Returns:
            Its tokens as [text, probability or None]; `parted`, the index of the first that is not the full model's
            (None while there is none); `equal`, the share of tokens that are the same at the same place; `repeated`,
            indices of tokens in words that the text has said before.
        """
        parted, equal = agreement(self.ids, full.ids, bool(self.finish and full.finish))
        known = [round(p, 4) for p in self.probabilities]
        known += [None] * (len(self.texts) - len(known))  # type: ignore[list-item]
        tokens = [list(pair) for pair in zip(self.texts, known, strict=True)]
        found = {"tokens": tokens, "parted": parted, "equal": equal, "repeated": repetitions(self.ids)}
        return {"percent": self.percent, **found, "finish": self.finish}


def repetitions(ids: Sequence[int]) -> list[int]:
    """Indices of tokens that belong to a trigram which came before.

    In a loop every next token is likely, to the full model too, so its probability says nothing there.
    """
    seen: set[tuple[int, ...]] = set()
    found: set[int] = set()
    for end in range(3, len(ids) + 1):
        trigram = tuple(ids[end - 3 : end])
        if trigram in seen:
            found.update(range(end - 3, end))
        seen.add(trigram)
    return sorted(found)


def agreement(ids: Sequence[int], full: Sequence[int], finished: bool) -> tuple[int | None, float | None]:
    """Where a text parts from the full model's, and the share of its tokens that are equal, place by place.

    Args:
        finished: both are complete, so that one that is shorter differs from there on.

    Returns:
        Index of the first different token, None where there is none; share of equal ones, None without any to compare.
    """
    common = min(len(ids), len(full))
    equal = [a == b for a, b in zip(ids, full, strict=False)]
    compared = max(len(ids), len(full)) if finished else common
    parted = equal.index(False) if False in equal else common if compared > common else None
    return parted, sum(equal) / compared if compared else None
