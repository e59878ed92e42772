"""The page's terms, each with a sentence that is shown on hover and focus wherever the term stands."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..evaluation.methods import CORPORA, METHODS, PEERS

MEANINGS = {
    "perplexity": "e to the mean loss per token: among how many tokens the model hesitates, the fewer the better",
    "token": "a word or a part of one; the model reads and writes one after another",
    "loss": "minus the logarithm of the probability that the model gives to the token that comes next",
    "nats": "the unit of a loss: one nat more makes the right token 2.7 times less likely",
    "divergence": "KL divergence of its next-token probabilities from the original's, in nats; 0 says the same",
    "held-out": "that no step of making the model smaller has seen",
    "windows": "stretches of text of equal length; each is read from an empty memory",
    "parameter": "a number that the model computes with; those of the tables of tokens are counted in",
    "layer": "a weight matrix of the model; without the tables of tokens, so 60 % of the layers is more of the model",
    "direction": "a part of what a weight matrix does; the least important ones are left out first",
    "bit": "a binary digit of a weight, which has 16 as published; with fewer it is a little wrong",
    "codes": "weights as small whole numbers, written in fewer bits the more often a number comes",
    "adapter": "two thin matrices beside a layer, trained to repair what was lost there",
    "score": "how much the model's predictions depend on a part of it, for what that part costs",
    "singular value decomposition": "splits a matrix into a sum of simple ones, the largest first",
    "transformers": "the Python library of Hugging Face that runs language models",
    "tokenizer": "what cuts a text into the model's tokens",
    "model card": "a page that says what the model is, how it was made, and under which licence it comes",
    "llama.cpp": "a program without Python that runs language models from one file",
    "q_proj": "makes queries: what a token looks for in the text before it",
    "k_proj": "makes keys: what a token is found by",
    "v_proj": "makes values: what a token hands on where it is found",
    "o_proj": "puts together what the queries found",
    "gate_proj": "decides which features of a token count",
    "up_proj": "makes a token's features",
    "down_proj": "turns features back into the state of the token",
    "embed_tokens": "the table that turns tokens into numbers, and here back again",
}
_NAMED = {each.title: each.description for each in (*PEERS.values(), *METHODS.values())} | {
    corpus.title: f"a collection of {corpus.kind}" for corpus in CORPORA.values() if corpus.kind
}
_ALL = {**_NAMED, **MEANINGS}
_TERM = re.compile(
    r"(?<![\w-])(" + "|".join(sorted(map(re.escape, _ALL), key=len, reverse=True)) + r")(?:s)?(?![\w-])", re.IGNORECASE
)
_BY_NAME = {name.lower(): name for name in _ALL}


def terms_in(*texts: str) -> dict[str, str]:
    """The terms that occur in texts, each with its sentence, in the order of their first occurrence."""
    found = (_BY_NAME[match[1].lower()] for text in texts for match in _TERM.finditer(text))
    return {name: _ALL[name] for name in dict.fromkeys(found)}


def meaning(terms: Sequence[str]) -> str:
    """The sentence of a term, or those of several behind their names; a corpus of a visitor's own is called that."""
    known = {name: _ALL.get(name, "a text of somebody's own") for name in terms}
    if len(known) == 1:
        return next(iter(known.values()))
    return " ".join(f"{name[0].upper()}{name[1:]}: {sentence.rstrip('.')}." for name, sentence in known.items())
