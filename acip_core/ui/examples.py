"""What the page offers to try: the prompts of the texts made beforehand, and the settings that these were made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..artifacts.completions import EXAMPLES, NEW_TOKENS, REPETITION_PENALTY, Completions
from ..model.size_planner import DIRECTIONS
from ..model.tracks import LARGEST_PERCENT


@dataclass(frozen=True)
class Examples:
    """Prompts to try and what the page opens with.

    Attributes:
        new_tokens, repetition_penalty: as `SamplingConfig`; settings that the page starts with.
        mode, percent: the size that the page opens with.
        original, text: of the first prompt, the full model's and that of the nearest size; empty where there are none.
    """

    prompts: tuple[str, ...]
    new_tokens: int
    repetition_penalty: float
    mode: str
    percent: float
    original: str = ""
    text: str = ""


def examples_of(made: Sequence[Completions], mode: str = DIRECTIONS, opening: float = LARGEST_PERCENT) -> Examples:
    """What an artifact's texts give; the page's own prompts where there are none.

    Args:
        mode, opening: the size in percent that the page opens with.
    """
    if not made:
        return Examples(EXAMPLES, NEW_TOKENS, REPETITION_PENALTY, mode, opening)
    prompts = tuple(dict.fromkeys(c.prompt for c in made))
    first = next((c for c in made if (c.prompt, c.mode) == (prompts[0], mode)), None)
    if first is None:
        return Examples(prompts, made[0].new_tokens, made[0].repetition_penalty, mode, opening)
    nearest = min(first.texts, key=lambda percent: abs(percent - opening), default=opening)
    original, text = first.texts.get(LARGEST_PERCENT, ""), first.texts.get(nearest, "")
    return Examples(prompts, first.new_tokens, first.repetition_penalty, mode, nearest, original, text)
