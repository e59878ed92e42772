"""Greedy completions of a few prompts at every size, made beforehand and kept as `completions.json` in an artifact.

With them a page can show what a model of any size writes while the slider is still moving.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..model.size_planner import DIRECTIONS, MODES
from ..storage.atomic import atomic_path
from ..storage.verified import listed, parse_dataclass, read_json, reporting_damage, write_json

FILE = "completions.json"
EXAMPLES = (  # the original is fluent and right on these, found with `python -m benchmarks.prompts`
    "The telephone was invented by",
    "The capital of Germany is called",
    "George Washington was the first",
    "Energy can be neither created nor",
    "Once upon a time, in a small village,",
    "The best way to learn a language is to",
)
NEW_TOKENS = 40
REPETITION_PENALTY = 1.1  # as little as keeps every candidate of `benchmarks/prompts.txt` from saying a thing twice


@dataclass(frozen=True)
class Completions:
    """One prompt's greedy continuations in one mode.

    Attributes:
        new_tokens: at most, per text.
        texts: by size in percent of the original: of its target layers' parameters, or of the published bytes where
            bits are spent.
        mode: what was spent: directions, bits, or both.
        repetition_penalty: as `SamplingConfig`.
    """

    prompt: str
    new_tokens: int
    texts: dict[float, str]
    mode: str = DIRECTIONS
    repetition_penalty: float = 1.0


def write_completions(completions: Sequence[Completions], folder: Path) -> None:
    """Replace the file in an artifact's folder.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic_path(folder / FILE) as temporary:
        save_completions(completions, temporary)


def save_completions(completions: Sequence[Completions], path: Path) -> None:
    """Write a file that `parse_completions` reads."""
    write_json(path, {"completions": [asdict(c) for c in completions]})


def read_completions(folder: Path) -> list[Completions]:
    """What an artifact's folder holds; nothing when there is no such file.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return []
    with reporting_damage(path, "make it again: `python -m acip_core examples`"):
        return parse_completions(path)


def parse_completions(path: Path) -> list[Completions]:
    """What a file holds.

    Raises:
        One of `verified.DAMAGE`: it is not such a file.
    """
    return [_completions(entry) for entry in listed(read_json(path), "completions")]


def _completions(entry: object) -> Completions:
    """Files from before there were modes and penalties name neither."""
    former = {"mode": DIRECTIONS, "repetition_penalty": 1.0}
    read = parse_dataclass(Completions, former | entry if isinstance(entry, dict) else entry)
    if read.mode not in MODES:
        raise ValueError(f"{read.mode!r:.60} as what is spent")
    if not all(isinstance(text, str) for text in read.texts.values()):
        raise ValueError("a text is not a text")
    return replace(read, texts={_percent(name): text for name, text in read.texts.items()})


def _percent(name: str | float) -> float:
    number = float(name)
    if not 0 < number <= 100:
        raise ValueError(f"{name!r:.60} as a size in percent")
    return int(number) if number.is_integer() else number
