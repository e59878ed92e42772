"""What every size still knows of what the full model knows, as the file `knowledge.safetensors` in an artifact.

For every mode and measured size (the slider's positions) it has the right answer's probability and rank and, for the
facts of the page's strip, the five likeliest tokens. It names what it was measured with, so that none of it is shown of
directions or codes that were made since.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..evaluation.facts import TOP, Fact, asked
from ..evaluation.skill_sentences import GROUPS
from ..model.size_planner import DIRECTIONS, MODES
from ..storage.atomic import atomic_path
from ..storage.digests import digest
from ..storage.verified import DAMAGE, check_floats, read_tensors, reporting_damage, save_tensors

log = logging.getLogger("acip")
FILE = "knowledge.safetensors"
KNOWING = 0.9  # share of the full model's facts that a page opens with
_DIRECTIONS_FROM = ("scores.safetensors", "basis.safetensors", "factors.safetensors", "adapter_model.safetensors")
_CODES_FROM = ("basis.safetensors", "coding.safetensors", "coding_adapters.safetensors")
_NEAR = 0.005  # a size counts as measured where one of so nearly as many bytes was: codes differ between machines


@dataclass(frozen=True)
class KnownSizes:
    """What the sizes of one mode say, the largest first.

    Attributes:
        bytes: of the whole model, int64 (sizes,).
        probability: of the right answer's first token, float16 (sizes, facts).
        rank: of that token among the vocabulary, 1 for the likeliest, int32 (sizes, facts).
        top: the likeliest tokens after the strip's prompts, int32 (sizes, strip, TOP).
        top_probability: theirs, float16 (sizes, strip, TOP).
    """

    bytes: torch.Tensor
    probability: torch.Tensor
    rank: torch.Tensor
    top: torch.Tensor
    top_probability: torch.Tensor

    @cached_property
    def share(self) -> list[float]:
        """Share of all facts that each size knows."""
        return (self.rank == 1).float().mean(1).tolist()

    @property
    def opening_bytes(self) -> int | None:
        """The smallest size from which on every one knows `KNOWING`; None where not even the largest does."""
        place = opening(self.share[::-1])
        return None if place is None else int(self.bytes.flip(0)[place])

    def nearest(self, sizes: Sequence[int]) -> list[int] | None:
        """For each size in bytes the measured one that it is; None where one was not measured."""
        found = [min(range(len(self.bytes)), key=lambda i: abs(int(self.bytes[i]) - size)) for size in sizes]
        pairs = zip(found, sizes, strict=True)
        return found if all(abs(int(self.bytes[i]) - size) <= _NEAR * size for i, size in pairs) else None


_PARTS = {
    "bytes": (torch.int64, 1), "probability": (torch.float16, 2), "rank": (torch.int32, 2),
    "top": (torch.int32, 3), "top_probability": (torch.float16, 3),
}  # fmt: skip


@dataclass(frozen=True)
class Knowledge:
    """Facts that the full model knows, and what its sizes say.

    Attributes:
        tokens: first token of each answer.
        strip: facts that stand for all, group by group: indices.
        vocabulary: tokens of the model.
    """

    facts: tuple[Fact, ...]
    tokens: tuple[int, ...]
    strip: tuple[int, ...]
    vocabulary: int
    modes: dict[str, KnownSizes]

    def why_not(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> str:
        """Why this is not of a model with such a tokenizer and so many tokens; empty where it is."""
        if vocabulary != self.vocabulary:
            return f"it is of a vocabulary of {self.vocabulary:,} tokens, not {vocabulary:,}"
        questions = asked(tokenizer, self.facts)
        same = all(i in questions and questions[i][1] == token for i, token in enumerate(self.tokens))
        return "" if same else "its answers are other tokens to this model's tokenizer"


def opening(shares: Sequence[float]) -> int | None:
    """The smallest position from which on every one knows `KNOWING` of what the full model knows.

    Args:
        shares: of the facts, by position, the smallest size first.

    Returns:
        None where not even the last one does.
    """
    enough = [share >= KNOWING - 1e-9 for share in shares]
    if not enough or not enough[-1]:
        return None
    return next((i + 1 for i in range(len(enough) - 2, -1, -1) if not enough[i]), 0)


def write_knowledge(knowledge: Knowledge, folder: Path) -> None:
    """Replace the file in an artifact's folder, whose other files it was measured with.

    Raises:
        StorageError: it cannot be written.
    """
    tensors = {f"{mode}.{part}": getattr(of, part) for mode, of in knowledge.modes.items() for part in _PARTS}
    content = {
        "facts": [[fact.field, fact.prompt, fact.answer] for fact in knowledge.facts],
        "tokens": knowledge.tokens,
        "strip": knowledge.strip,
        "vocabulary": knowledge.vocabulary,
        "made_from": {mode: made_from(folder, mode) for mode in knowledge.modes},
    }
    with atomic_path(folder / FILE) as path:
        save_tensors(tensors, path, {"knowledge": json.dumps(content, ensure_ascii=False)})


def made_from(folder: Path, mode: str) -> str:
    """Names what an artifact's files hold that decides what a mode's sizes say."""
    names = _DIRECTIONS_FROM if mode == DIRECTIONS else _CODES_FROM
    return digest(*(_values(folder / name) for name in names if (folder / name).exists()))[:32]


def _values(path: Path) -> Iterator[object]:
    """All tensors of a file: its bytes are others each time that it is written, for metadata have no order."""
    try:
        tensors, _ = read_tensors(path)
    except DAMAGE:
        yield "damaged"  # whoever needs it says so
        return
    for name in sorted(tensors):
        yield from (name, tensors[name])


def read_knowledge(folder: Path) -> Knowledge | None:
    """What `write_knowledge` wrote; None where the model knows nothing, or all was measured with other files.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return None
    with reporting_damage(path, "delete it, or make it again with `python -m acip_core measure knowledge`"):
        tensors, metadata = read_tensors(path)
        content = json.loads(metadata["knowledge"])
        stated = content["made_from"]
        if not set(stated) <= set(MODES) or set(tensors) != {f"{mode}.{part}" for mode in stated for part in _PARTS}:
            raise ValueError("it holds other tensors than its own")
        facts, tokens, strip, vocabulary = _described(content)
        modes = {mode: KnownSizes(*(tensors[f"{mode}.{part}"] for part in _PARTS)) for mode in stated}
        for mode, of in modes.items():
            _check(mode, of, len(facts), len(strip), vocabulary)
    current = {mode: of for mode, of in modes.items() if stated[mode] == made_from(folder, mode)}
    if current.keys() != modes.keys():
        log.warning(
            "%s was measured before its artifact changed; `python -m acip_core measure knowledge` renews it.", path
        )
    return Knowledge(facts, tokens, strip, vocabulary, current) if current and facts else None


def fitting_knowledge(folder: Path, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> Knowledge | None:
    """As `read_knowledge`; None, and a warning, too, where it is of another vocabulary."""
    knowledge = read_knowledge(folder)
    reason = knowledge.why_not(tokenizer, vocabulary) if knowledge is not None else ""
    if reason:
        log.warning("%s is left out: %s.", folder / FILE, reason)
        return None
    return knowledge


def _described(content: dict[str, Any]) -> tuple[tuple[Fact, ...], tuple[int, ...], tuple[int, ...], int]:
    facts, vocabulary = content["facts"], content["vocabulary"]
    fields = {field for of in GROUPS.values() for field in of}
    for entry in facts:
        if not (len(entry) == 3 and all(isinstance(part, str) and part for part in entry) and entry[0] in fields):
            raise ValueError(f"{entry!s:.60} as a fact")
    tokens, strip = content["tokens"], content["strip"]
    if not all(type(value) is int for value in (vocabulary, *tokens, *strip)) or len(tokens) != len(facts):
        raise ValueError("a token or an index is malformed")
    if not all(0 <= token < vocabulary for token in tokens):
        raise ValueError(f"an answer is no token of the {vocabulary}")
    if len(set(strip)) != len(strip) or not all(0 <= index < len(facts) for index in strip):
        raise ValueError("the strip names facts that are not there")
    return (
        tuple(Fact(prompt, answer, field) for field, prompt, answer in facts),
        tuple(tokens),
        tuple(strip),
        vocabulary,
    )


def _check(mode: str, of: KnownSizes, facts: int, strip: int, vocabulary: int) -> None:
    """Raise ValueError unless all numbers of a mode can be."""
    sizes = len(of.bytes)
    shapes = {"bytes": (sizes,), "probability": (sizes, facts), "rank": (sizes, facts)}
    shapes |= dict.fromkeys(("top", "top_probability"), (sizes, strip, TOP))
    for part, (dtype, _) in _PARTS.items():
        found = getattr(of, part)
        if found.dtype != dtype or tuple(found.shape) != shapes[part]:
            raise ValueError(f"'{mode}.{part}' is {found.dtype} {tuple(found.shape)}")
    if not sizes or int(of.bytes[-1]) <= 0 or not (of.bytes[:-1] > of.bytes[1:]).all():
        raise ValueError(f"the sizes of '{mode}' do not fall")
    for part in ("probability", "top_probability"):
        check_floats(f"{mode}.{part}", getattr(of, part), _PARTS[part][1])
        if ((getattr(of, part) < 0) | (getattr(of, part) > 1)).any():
            raise ValueError(f"'{mode}.{part}' holds no probabilities")
    if ((of.rank < 1) | (of.rank > vocabulary)).any() or ((of.top < 0) | (of.top >= vocabulary)).any():
        raise ValueError(f"a token of '{mode}' is none of the {vocabulary}")
    if (of.rank[0] != 1).any():
        raise ValueError(f"the largest size of '{mode}' does not know what the full model knows")
