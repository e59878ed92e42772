"""What one prompt becomes at many sizes: which texts are known, and which the slider needs next.

Knows nothing of gradio; a text is known by its size in percent under the key of its prompt and settings.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from ..artifacts.completions import Completions
from ..figures.tracks import Track
from ..generation.engine import SamplingConfig
from ..model.size_planner import DIRECTIONS

_COARSE, _FINE = 3, 1  # steps of the track between two sizes: of the first batch, of those that follow
_BATCH = 5  # sizes side by side; about twice the time of one
_KEPT = 64  # prompts and settings
_LONGEST = 400  # characters of a prompt that are read at many sizes at once without a noticeable wait


class Texts:
    """Finished texts of the latest prompts, and those made beforehand; safe to use from many threads."""

    def __init__(self, made: Sequence[Completions] = ()):
        self._made: dict[str, dict[float, str]] = {
            key_of(c.prompt, SamplingConfig(max_new_tokens=c.new_tokens), False): dict(c.texts.items()) for c in made
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
    return json.dumps([prompt, sampling.max_new_tokens, chat, mode, *drawn])


def first_sizes(prompt: str, percent: float, track: Track) -> list[float]:
    """The size asked for, then few others all over the slider; it alone when the prompt is long."""
    if len(prompt) > _LONGEST:
        return [percent]
    every, positions = _COARSE * track.step, track.distinct
    own = min(range(len(positions)), key=lambda i: abs(positions[i] - percent))
    coarse = [positions[i] for i in range(0, len(positions), every) if abs(i - own) > every // 2]
    return [percent, *coarse[: _BATCH - 1]]


def next_sizes(prompt: str, known: Mapping[float, str], percent: float, track: Track) -> list[float]:
    """The sizes still missing that are nearest to the slider, as many as run side by side."""
    if len(prompt) > _LONGEST:
        return []
    missing = [p for p in track.distinct[:: _FINE * track.step] if p not in known]
    return sorted(missing, key=lambda p: abs(p - percent))[:_BATCH]
