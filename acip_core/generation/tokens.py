"""Token ids as text that streams: one step of a stream, and text that never ends within a character."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from transformers import PreTrainedTokenizerBase

_CONTEXT_IDS = 5  # prompt tokens decoded in front of the new ones, so that a leading space survives
_HOLD_BACK = 8  # tokens after which undecodable bytes are shown as they are
_REPLACEMENT = "\ufffd"
TokenSteps = Iterator[dict[int, "Token"]]


@dataclass(frozen=True)
class Token:
    """One step of a stream.

    Attributes:
        text: new text; empty while the prompt is read and while half a character is held back.
        count: tokens generated so far, 0 while the prompt is read.
        prompt_read, prompt_tokens: how much of the prompt has been read, in tokens.
        finish: "" while running, then "end" (the model ended the text), "length" or "stopped".
        ahead: callers that come first, while waiting in the queue.
        id: of the token itself, where this step has one.
        probabilities: that the full model gives this stream's tokens that it has read since the last step.
    """

    text: str
    count: int
    prompt_read: int
    prompt_tokens: int
    finish: str = ""
    ahead: int = 0
    id: int | None = None
    probabilities: tuple[float, ...] = ()


class Detokenizer:
    """Token ids → text increments that never end within a character."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: list[int]):
        self._tokenizer = tokenizer
        self._ids = context[-_CONTEXT_IDS:]
        self._start, self._shown = 0, len(self._ids)

    def push(self, token: int) -> str:
        """Text that `token` completes; empty while a character is incomplete."""
        self._ids.append(token)
        return self._take(final=len(self._ids) - self._shown > _HOLD_BACK)

    def flush(self) -> str:
        """What is still held back."""
        return self._take(final=True)

    def _take(self, final: bool) -> str:
        before = self._decode(self._ids[self._start : self._shown])
        now = self._decode(self._ids[self._start :])
        if len(now) <= len(before) or (now.endswith(_REPLACEMENT) and not final):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cast(str, text)
