"""What a request asks for, checked: programs can send any JSON there is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import GenerationError, shown
from ..generation.engine import SamplingConfig
from ..model.tracks import LARGEST_PERCENT

_TOO_LARGE = 2**63


@dataclass(frozen=True)
class CompletionConfig:
    """How to write a completion, as a browser or a program sent it: any JSON values, in the order of the API."""

    temperature: Any
    top_p: Any
    seed: Any
    length: Any
    chat: Any
    mode: Any = ""  # what may be spent; the best that the model has by default
    repetition_penalty: Any = 1.0


@dataclass(frozen=True)
class CompletionRequest:
    """What a visitor wants continued, and how."""

    prompt: str
    sampling: SamplingConfig
    chat: bool

    @property
    def shown(self) -> str:
        """What stands before the completion."""
        return "" if self.chat else self.prompt


def completion_request(prompt: Any, settings: CompletionConfig) -> CompletionRequest:
    """The prompt and settings of a completion.

    Raises:
        GenerationError: one of them is of another kind; its range is the engine's to check.
    """
    if not isinstance(settings.chat, bool | None):
        raise GenerationError(f"The chat template is either used or not: true or false, not {shown(settings.chat)}.")
    sampling = SamplingConfig(
        number_of("temperature", settings.temperature),
        number_of("top-p", settings.top_p),
        whole_of("seed", settings.seed),
        whole_of("length", settings.length),
        number_of("repetition penalty", settings.repetition_penalty),
    )
    return CompletionRequest(text_of("prompt", prompt), sampling, bool(settings.chat))


def percent_of(percent: Any) -> float:
    """A slider position; a slider without one stands at its end.

    Raises:
        GenerationError: it is no number.
    """
    return LARGEST_PERCENT if percent is None else number_of("size in percent", percent)


def percents_of(percents: Any) -> list[float]:
    """Several slider positions.

    Raises:
        GenerationError: they are no list of numbers.
    """
    if not isinstance(percents, Sequence | None) or isinstance(percents, str):
        raise GenerationError(f"The sizes must be a list of numbers in percent, not {shown(percents)}.")
    return [percent_of(percent) for percent in percents or ()]


def text_of(name: str, value: Any) -> str:
    """A text that can be sent back: half a surrogate pair is none. Nothing counts as an empty one.

    Raises:
        GenerationError: it is no text.
    """
    if not isinstance(value, str | None):
        raise GenerationError(f"The {name} must be text, not {shown(value)}.")
    return (value or "").encode("utf-8", "replace").decode()


def number_of(name: str, value: Any) -> float:
    """A finite number.

    Raises:
        GenerationError: it is none, or beyond what any setting can be.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or (value != value):
        raise GenerationError(f"The {name} must be a number, not {shown(value)}.")
    if not -_TOO_LARGE < value < _TOO_LARGE:
        raise GenerationError(f"The {name} is a number far out of range.")
    return value


def whole_of(name: str, value: Any) -> int:
    """A whole number; browsers send 7.0 for 7.

    Raises:
        GenerationError: it is none.
    """
    number = number_of(name, value)
    if not math.isfinite(number) or number != int(number):
        raise GenerationError(f"The {name} must be a whole number, not {shown(value)}.")
    return int(number)
