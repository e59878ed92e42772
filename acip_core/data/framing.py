"""How a text reaches a model: what every window begins with, and what stands between two documents.

A model reads text as it was trained to read it. Tokenizers say how a text begins (Llama, Mistral and Gemma put a start
token in front, and are far worse without); what parted documents in pre-training is known by its token's name, which a
chat model keeps in its vocabulary even where its own texts end otherwise. Knows nothing of corpora or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

# Tokens that end documents in pre-training: GPT-2, Pythia, Qwen, SmolLM, Phi, OLMo, Falcon · Llama 3, Granite ·
# Llama 2, Mistral, OPT, Bloom · Gemma · Cohere. Any other model's are taken to be its end token.
_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<EOS_TOKEN>")


@dataclass(frozen=True)
class Framing:
    """Token ids around text.

    Attributes:
        start: at the start of every window.
        between: between two documents: what ends one, then what starts one.
    """

    start: tuple[int, ...]
    between: tuple[int, ...]

    @property
    def lead(self) -> tuple[int, ...]:
        """What the first token of a text is predicted from."""
        return self.start or self.between

    def described(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The tokens by name, as an artifact records them."""
        return {
            name: tokenizer.convert_ids_to_tokens(list(ids)) for name, ids in vars(self).items()
        }  # names, for ids mean nothing without the vocabulary


def framing(tokenizer: PreTrainedTokenizerBase) -> Framing:
    """The framing that a tokenizer's model was trained with."""
    start, end = _start(tokenizer), _document_end(tokenizer)
    if end is None:
        return Framing(start, start)
    return Framing(start, (end,) if start == (end,) else (end, *start))


def _start(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer itself puts in front of a text."""
    whole = tokenizer("a", verbose=False).input_ids
    bare = tokenizer("a", add_special_tokens=False, verbose=False).input_ids
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return tuple(whole[:at])


def _document_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    special = {token.content: id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    names = ([tokenizer.eos_token] if tokenizer.eos_token in _DOCUMENT_ENDS else []) + list(_DOCUMENT_ENDS)
    known = next((special[name] for name in names if name in special), None)
    return known if known is not None else tokenizer.eos_token_id


def framed_windows(tokenizer: PreTrainedTokenizerBase, ids: list[int], length: int) -> list[torch.Tensor]:
    """One text's tokens in windows that predict each of them exactly once.

    Args:
        ids: of the text alone, at least one.
        length: tokens per window, more than it begins with; the last one may be shorter.

    Returns:
        int64 (≤ length,) each. A window begins as the tokenizer begins a text; without a start token it begins with
        the last token of the one before, and the first with what parts documents. A tokenizer that has neither leaves
        the text's first token unpredicted.
    """
    frame = framing(tokenizer)
    if frame.start:
        step = length - len(frame.start)
        return [torch.tensor([*frame.start, *ids[i : i + step]]) for i in range(0, len(ids), step)]
    ids = [*frame.between, *ids]
    return [torch.tensor(ids[i : i + length]) for i in range(0, max(1, len(ids) - 1), length - 1)]
