"""The few errors users meet; each message is one sentence that names what, where and what to do."""

from __future__ import annotations

import math
from numbers import Real

_SHOWN = 60  # characters of a value in a sentence


class AcipError(Exception):
    """Base of all errors a user can cause; shown as one sentence, never as a traceback."""


class ArgumentError(AcipError, TypeError):
    """A keyword that a function does not take, or not with that value."""


class ModelError(AcipError):
    """A base model cannot be found, loaded or factorized."""


class CorpusError(AcipError):
    """A text source is missing, empty or too short."""


class ArtifactError(AcipError):
    """A precomputed artifact is missing, damaged or belongs to another model."""


class SizeError(AcipError):
    """A target size that no cut of the model can have."""


class PrecisionError(AcipError):
    """A precision that is unknown, or that the model's layers or this machine do not allow."""


class GenerationError(AcipError):
    """A prompt or sampling setting that cannot be run."""


class EvaluationError(AcipError):
    """A benchmark is unknown, or what it needs cannot be had."""


class HubError(AcipError):
    """A repository of the Hugging Face Hub is missing, private or out of reach."""


class StorageError(AcipError):
    """A file cannot be written: full disk, no permission."""


def check_ratio(value: object) -> float:
    """A size ratio as a number.

    Raises:
        SizeError: it is none in (0, 1].
    """
    number = finite(value)
    if number is not None and 0 < number <= 1:
        return number
    percent = f"; {shown(value)} % is {number / 100:g}" if number is not None and 2 <= number <= 100 else ""
    raise SizeError(f"A size ratio must lie above 0 and be 1 at most, not {shown(value)}{percent}.")


def shown(value: object) -> str:
    """A value that somebody sent, as a short part of a sentence."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def finite(value: object) -> float | None:
    """A value that somebody sent as a number, or None where it is none, or beyond all floats."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
