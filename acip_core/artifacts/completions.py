"""Greedy completions of a few prompts at every size, made beforehand and kept as `completions.json` in an artifact.

With them a page can show what a model of any size writes while the slider is still moving.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..storage.atomic import atomic_path
from ..storage.verified import listed, parse_dataclass, read_json, reporting_damage, write_json

FILE = "completions.json"
EXAMPLES = (
    "The capital of Germany is called",
    "The three primary colors are",
    "Water is made of",
    "Once upon a time, there was a little girl who",
    "The best way to learn a language is to",
)
NEW_TOKENS = 96
PERCENTS = tuple(range(100, 28, -2))


@dataclass(frozen=True)
class Completions:
    """One prompt's greedy continuations.

    Attributes:
        new_tokens: at most, per text.
        texts: by size in percent of the original.
    """

    prompt: str
    new_tokens: int
    texts: dict[int, str]


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
    return [_checked(parse_dataclass(Completions, entry)) for entry in listed(read_json(path), "completions")]


def _checked(read: Completions) -> Completions:
    if not all(isinstance(text, str) for text in read.texts.values()):
        raise ValueError("a text is not a text")
    return replace(read, texts={int(percent): text for percent, text in read.texts.items()})
