"""How tokens are chosen, and which settings are refused: every value that a caller can send is answered by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from .errors import GenerationError

_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 picks the likeliest token; higher is more varied.
        top_p: sample only from the likeliest tokens that together have this probability, in (0, 1].
        seed: same seed, prompt, size and settings, same text.
        max_new_tokens: tokens after which to stop.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 128


def check_sampling(sampling: Sampling, context: int) -> Sampling:
    """The same settings as plain numbers; those that cannot be run are refused.

    Args:
        context: tokens the model can attend to.

    Raises:
        GenerationError: names the setting, its value and its range.
    """
    temperature = _number("temperature", sampling.temperature)
    if temperature < 0:
        raise GenerationError(f"The temperature must be 0 or more, not {shown(sampling.temperature)}.")
    top_p = _number("top-p", sampling.top_p)
    if not 0 < top_p <= 1:
        raise GenerationError(f"Top-p must lie above 0 and at most 1, not {shown(sampling.top_p)}.")
    seed = _whole("seed", sampling.seed, 0, 2**63 - 1, "a whole number from 0 to 2⁶³ − 1")
    length = _whole("length", sampling.max_new_tokens, 1, context - 1, f"1 to {context - 1:,} tokens")
    return Sampling(temperature, top_p, seed, length)


def shown(value: object) -> str:
    """A value that somebody sent, as a short part of a sentence."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _number(name: str, value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise GenerationError(f"The {name} must be a number, not {shown(value)}.")
    return number


def _whole(name: str, value: Any, low: int, high: int, range: str) -> int:
    numeric = isinstance(value, Real) and not isinstance(value, bool)
    if not (numeric and low <= value <= high and value == int(value)):
        raise GenerationError(f"The {name} must be {range}, not {shown(value)}.")
    return int(value)
