"""Facts kept: of the one-word facts that the full model knows, how many a smaller size still knows.

A fact is a sentence without its last word. A model knows it when the word's first token is the likeliest next one.
Sentences that ask for a skill are asked alike; what a size says in place of the answer is in `Answers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.framing import framing
from ..progress import Progress, Steps
from .fact_sentences import SENTENCES
from .skill_sentences import SKILLS as SKILL_SENTENCES

TOP = 5  # likeliest tokens that are kept of an answer
_BATCH = 64  # facts in one forward pass


@dataclass(frozen=True)
class Fact:
    """A sentence without its last word.

    Attributes:
        prompt: ends right before the space in front of the answer.
        answer: one word, with that space.
        field: what it is about, as `fact_sentences.SENTENCES` calls it.
    """

    prompt: str
    answer: str
    field: str = ""


@dataclass(frozen=True)
class Answers:
    """What a model says after each of some facts.

    Attributes:
        probability: of the right answer's first token, float32 (facts,).
        rank: of that token among the vocabulary, 1 for the likeliest, int64 (facts,).
        top: the likeliest tokens, likeliest first, int64 (facts, TOP).
        top_probability: theirs, float32 (facts, TOP).
    """

    probability: torch.Tensor
    rank: torch.Tensor
    top: torch.Tensor
    top_probability: torch.Tensor

    @property
    def known(self) -> torch.Tensor:
        """Which are right, bool (facts,)."""
        return self.rank == 1


def _facts(sentences: Mapping[str, str]) -> tuple[Fact, ...]:
    split = [(field, line.rpartition(" ")) for field, lines in sentences.items() for line in lines.splitlines()]
    return tuple(Fact(prompt, space + word, field) for field, (prompt, space, word) in split)


FACTS, SKILLS = _facts(SENTENCES), _facts(SKILL_SENTENCES)


def known_facts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact] = FACTS
) -> Steps[tuple[bool, ...]]:
    """Which facts a model knows at the size in force, each read as a text of its own.

    Facts of equal length share a forward pass, so nothing is padded. One that the tokenizer has no tokens for is not
    known.

    Returns:
        One value for each fact, in their order.
    """
    questions = asked(tokenizer, facts)
    known: dict[int, bool] = {}
    for batch, logits in _read(model, questions):
        likeliest = logits.argmax(-1).tolist()
        known |= {i: questions[i][1] == token for i, token in zip(batch, likeliest, strict=True)}
        yield Progress("asking for facts", len(known), len(questions), f"{sum(known.values())} known")
    return tuple(known.get(i, False) for i in range(len(facts)))


def answers(model: PreTrainedModel, questions: Mapping[int, tuple[list[int], int]]) -> Steps[Answers]:
    """What a model says at the size in force, each fact read as in `known_facts`.

    Args:
        questions: what `asked` finds of facts all of which the tokenizer has tokens for.
    """
    count = len(questions)
    probability, rank = torch.zeros(count), torch.zeros(count, dtype=torch.int64)
    top, top_probability = torch.zeros(count, TOP, dtype=torch.int64), torch.zeros(count, TOP)
    done = 0
    for batch, logits in _read(model, questions):
        logits, places = logits.float().cpu(), torch.tensor(batch)
        right = torch.tensor([[questions[i][1]] for i in batch])
        own, earlier = logits.gather(1, right), torch.arange(logits.shape[1]) < right
        probabilities = logits.softmax(-1)
        probability[places] = probabilities.gather(1, right)[:, 0]
        rank[places] = ((logits > own) | ((logits == own) & earlier)).sum(-1) + 1  # of equals the first, as argmax
        found = probabilities.topk(TOP)
        top[places], top_probability[places] = found.indices, found.values
        done += len(batch)
        yield Progress("asking for facts", done, count)
    return Answers(probability, rank, top, top_probability)


def _read(
    model: PreTrainedModel, questions: Mapping[int, tuple[list[int], int]]
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Facts of equal length in one forward pass: their indices, and the logits after them (facts, vocabulary)."""
    by_length = groupby(sorted(questions, key=lambda i: len(questions[i][0])), key=lambda i: len(questions[i][0]))
    groups = [list(group) for _, group in by_length]
    for batch in (group[start : start + _BATCH] for group in groups for start in range(0, len(group), _BATCH)):
        ids = torch.tensor([questions[i][0] for i in batch], device=model.device)  # (facts, tokens)
        with torch.inference_mode():
            logits = model(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        yield batch, logits


def facts_kept(full: Sequence[bool], cut: Sequence[bool]) -> float | None:
    """Share of the facts known by the full model that a cut of it knows too, 0 to 1.

    Args:
        full, cut: what `known_facts` returns at size 1.0 and at the size in question, for the same facts.

    Returns:
        None where the full model knows none: it has nothing to keep.

    Raises:
        ValueError: they are of different numbers of facts.
    """
    kept = [after for before, after in zip(full, cut, strict=True) if before]
    return sum(kept) / len(kept) if kept else None


def asked(tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact]) -> dict[int, tuple[list[int], int]]:
    """What a model reads and the token it should find likeliest, by the fact's index.

    Sentences are read whole, as in a text, because some tokenizers write a word differently at a text's start. Some
    make the space a token of its own: it says nothing of the answer, so it goes with what is read.
    """
    lead, questions = framing(tokenizer).lead, {}
    for index, fact in enumerate(facts):
        prompt, whole = (
            tokenizer(text, add_special_tokens=False, verbose=False).input_ids
            for text in (fact.prompt, fact.prompt + fact.answer)
        )
        shared = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
        answer = next((i for i in range(shared, len(whole)) if str(tokenizer.decode([whole[i]])).strip()), None)
        if answer is not None:
            questions[index] = ([*lead, *whole[:answer]], whole[answer])
    return questions


def vocabulary_of(model: PreTrainedModel) -> int:
    """How many tokens a model tells apart."""
    return int(model.config.get_text_config().vocab_size)
