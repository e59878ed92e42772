"""What one prompt becomes at many sizes: which texts are known, and which the slider needs next.

Knows nothing of gradio; a text is known by its size in percent under the key of its prompt and settings.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence

from ..artifacts.completions import Completions
from ..generation.engine import SamplingConfig
from ..model.size_planner import DIRECTIONS
from ..model.tracks import LARGEST_PERCENT, Track

_COARSE, _FINE = 3, 1  # steps of the track between two sizes
_BATCH = 5  # sizes side by side; about twice the time of one
_KEPT = 64  # prompts and settings
_LONGEST = 400  # characters of a prompt that are read at many sizes at once without a noticeable wait


class Texts:
    """Finished texts of the latest prompts, and those made beforehand; safe to use from many threads."""

    def __init__(self, made: Sequence[Completions] = ()):
        self._made: dict[str, dict[float, str]] = {
            key_of(c.prompt, _sampling_of(c), False, c.mode): dict(c.texts) for c in made
        }
        self._guard = threading.Lock()
        self._kept: OrderedDict[str, dict[float, str]] = OrderedDict()

    def made_beforehand(self, key: str) -> bool:
        """Whether the texts of this key came with the artifact, at all sizes there are."""
        return key in self._made

    def known(self, key: str) -> dict[float, str]:
        """Texts by size in percent."""
        with self._guard:
            return {**self._made.get(key, {}), **self._kept.get(key, {})}

    def add(self, key: str, percent: float, text: str) -> None:
        """Keep a text; those made beforehand stay as they are."""
        if key in self._made:
            return
        with self._guard:
            self._kept.setdefault(key, {})[percent] = text
            self._kept.move_to_end(key)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)


def key_of(prompt: str, sampling: SamplingConfig, chat: bool, mode: str = DIRECTIONS) -> str:
    """What a text depends on besides the size."""
    drawn = (sampling.temperature, sampling.top_p, sampling.seed) if sampling.temperature > 0 else ()
    return json.dumps([prompt, sampling.max_new_tokens, float(sampling.repetition_penalty), chat, mode, *drawn])


def _sampling_of(made: Completions) -> SamplingConfig:
    return SamplingConfig(max_new_tokens=made.new_tokens, repetition_penalty=made.repetition_penalty)


def first_batches(prompt: str, known: Container[float], percent: float) -> list[list[float]]:
    """The size asked for and the original, those side by side in a batch of their own.

    The size asked for is always written; where the prompt is long, it does not wait for the original's reading.
    """
    if percent == LARGEST_PERCENT or LARGEST_PERCENT in known:
        return [[percent]]
    both: list[float] = [percent, LARGEST_PERCENT]
    return [[size] for size in both] if len(prompt) > _LONGEST else [both]


def next_sizes(prompt: str, known: Mapping[float, str], percent: float, track: Track) -> list[float]:
    """The sizes still missing that are nearest to the slider, as many as run side by side; coarse ones first."""
    if len(prompt) > _LONGEST:
        return []
    for step in (_COARSE, _FINE):
        missing = [p for p in track.distinct[:: step * track.step] if p not in known]
        if missing:
            return sorted(missing, key=lambda p: abs(p - percent))[:_BATCH]
    return []
