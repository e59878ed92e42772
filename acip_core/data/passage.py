"""A user's text, cut into windows of tokens and the pieces of text that these stand for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import CorpusError
from .framing import framed_windows, framing

MOST_CHARACTERS = 200_000


@dataclass(frozen=True)
class Passage:
    """A text as a model reads it.

    Attributes:
        pieces: what each predicted token stands for; together they are the text that is read, to the character.
        windows: token ids (≤ length,) each, as `framing.framed_windows`: every piece is predicted exactly once.
        lead: tokens at the start of every window that are not predicted.
        left_out: tokens behind the last one read.
    """

    pieces: list[str]
    windows: list[torch.Tensor]
    lead: int
    left_out: int


def cut_passage(tokenizer: PreTrainedTokenizerBase, text: str | None, length: int, most: int) -> Passage:
    """Cut a text into windows.

    Args:
        length: tokens per window; the last one may be shorter.
        most: tokens read.

    Raises:
        CorpusError: the text is empty, too long, or no text.
    """
    if not text or not text.strip():
        raise CorpusError("There is no text to read; paste one or choose a file.")
    if len(text) > MOST_CHARACTERS:
        raise CorpusError(f"The text has {len(text):,} characters; at most {MOST_CHARACTERS:,} are taken.")
    if "\0" in text:
        raise CorpusError("This is no text: it holds zero bytes.")
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text for a tokenizer
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, ends, reached = list(encoded["input_ids"]), [], 0
    for _, end in encoded["offset_mapping"]:
        reached = max(reached, end)  # several tokens of one character: the first has it
        ends.append(reached)
    lead = framing(tokenizer).lead
    first = 0 if lead else 1  # without anything in front, nothing predicts the first token
    if len(ids) <= first:
        raise CorpusError("The text is a single token, and nothing can be predicted from it; add a few words.")
    left_out = max(0, len(ids) - first - most)
    ids, ends = ids[: most + first], ends[: most + first]
    if not left_out:
        ends[-1] = len(text)
    starts = [0, *ends[first:-1]]
    pieces = [text[start:end] for start, end in zip(starts, ends[first:], strict=True)]
    return Passage(pieces, framed_windows(tokenizer, ids, length), max(1, len(framing(tokenizer).start)), left_out)
