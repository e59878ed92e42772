"""Greedy completions of a few prompts at every size, made beforehand and kept as `completions.json` in an artifact.

With them a page can show what a model of any size writes while the slider is still moving.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .elastic import ElasticModel
from .files import built, damage_told, listed, read_json, write_json
from .generate import Engine, Sampling
from .generate import Steps as TokenSteps
from .progress import Progress, Steps
from .storage import atomic_path

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
_BATCH = 6  # sizes side by side; neighbours share most of their directions


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


def complete_examples(elastic: ElasticModel, prompts: Sequence[str] = EXAMPLES) -> Steps[list[Completions]]:
    """Continue every prompt at every size the model has, several sizes in one batch."""
    engine, planner = Engine(elastic), elastic.planner
    done: list[Completions] = []
    percents = [p for p in PERCENTS if p * planner.base_target_parameters >= 100 * planner.smallest]
    total, count = len(prompts) * len(percents), 0
    for prompt in prompts:
        texts: dict[int, str] = {}
        for start in range(0, len(percents), _BATCH):
            sizes = percents[start : start + _BATCH]
            plans = [planner.at_ratio(percent / 100) for percent in sizes]
            steps = engine.compare(prompt, plans, Sampling(max_new_tokens=NEW_TOKENS))
            texts |= {sizes[i]: text for i, text in finished_texts(steps)}
            count += len(sizes)
            yield Progress("completing the examples", count, total, f"“{prompt[:40]}” down to {sizes[-1]}%")
        done.append(Completions(prompt, NEW_TOKENS, dict(sorted(texts.items(), reverse=True))))
    return done


def finished_texts(steps: TokenSteps) -> Iterator[tuple[int, str]]:
    """Index and whole text of each size of a batch as it comes to its end; nothing of those that were stopped."""
    texts: dict[int, str] = {}
    for step in steps:
        for i, token in step.items():
            texts[i] = texts.get(i, "") + token.text
            if token.finish and token.finish != "stopped":
                yield i, texts[i]


def write_completions(completions: Sequence[Completions], folder: Path) -> None:
    """Replace the file in an artifact's folder.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic_path(folder / FILE) as temporary:
        write_json(temporary, {"completions": [asdict(c) for c in completions]})


def read_completions(folder: Path) -> list[Completions]:
    """What an artifact's folder holds; nothing when there is no such file.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return []
    with damage_told(path, "make it again: `python -m acip_core complete`"):
        return parse_completions(path)


def parse_completions(path: Path) -> list[Completions]:
    """What a file holds.

    Raises:
        One of `files.DAMAGE`: it is not such a file.
    """
    return [_checked(built(Completions, entry)) for entry in listed(read_json(path), "completions")]


def _checked(read: Completions) -> Completions:
    if not all(isinstance(text, str) for text in read.texts.values()):
        raise ValueError("a text is not a text")
    return replace(read, texts={int(percent): text for percent, text in read.texts.items()})
