"""Facts kept: the list itself, on tiny models against a plain loop, and on the default model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from acip_core.data.framing import framing
from acip_core.evaluation.facts import FACTS, Fact, facts_kept, known_facts
from acip_core.model.base_model import BaseModel, load_base
from acip_core.progress import Progress, finish
from tests.support.tiny import tiny_base, tiny_elastic

PROMPTS = tuple(fact.prompt for fact in FACTS[::6])


def likeliest(base: BaseModel, prompt: str) -> str:
    """The character that a tiny model expects after a prompt and a space, asked for it alone."""
    ids = base.tokenizer(prompt + " ", add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = base.model(torch.tensor([[*framing(base.tokenizer).lead, *ids]])).logits[0, -1]
    return base.tokenizer.decode([int(logits.argmax())])


def facts_for(base: BaseModel) -> tuple[list[Fact], tuple[bool, ...]]:
    """Facts of many lengths, and whether the tiny model knows them: every third is of another answer than its own."""
    answers = [(prompt, likeliest(base, prompt)) for prompt in PROMPTS]
    asked = [(prompt, answer) for prompt, answer in answers if len(answer) == 1 and answer != " "]  # no special token
    known = tuple(index % 3 != 0 for index in range(len(asked)))
    facts = [
        Fact(prompt, " " + (answer + "x" if right else "y" if answer == "x" else "x"))
        for (prompt, answer), right in zip(asked, known, strict=True)
    ]
    lengths = {len(fact.prompt) for fact in facts}
    assert 5 < len(lengths) < len(facts), "some are read together and some are not"
    return facts, known


def test_the_list_is_long_varied_and_well_formed() -> None:
    assert len(FACTS) >= 200
    assert len({fact.prompt for fact in FACTS}) == len(FACTS)
    for fact in FACTS:
        word = fact.answer.removeprefix(" ")
        assert fact.answer == f" {word}" and word.isalpha()
        assert fact.prompt == fact.prompt.strip() and fact.prompt.lstrip('"')[0].isupper()
        assert word.lower() not in fact.prompt.lower().replace(",", " ").split(), f"{fact} gives its answer away"
    fields = Counter(fact.field for fact in FACTS)
    assert len(fields) >= 12 and max(fields.values()) <= 0.15 * len(FACTS)


def test_a_fact_is_known_whose_answer_is_the_likeliest(base: BaseModel) -> None:
    facts, known = facts_for(base)
    assert finish(known_facts(base.model, base.tokenizer, facts)) == known


def test_many_at_once_are_the_same_as_one_by_one(base: BaseModel) -> None:
    facts, _ = facts_for(base)
    alone = [finish(known_facts(base.model, base.tokenizer, [fact])) for fact in facts]
    together = finish(known_facts(base.model, base.tokenizer, facts))
    assert together == tuple(known for (known,) in alone) and len(set(together)) == 2


def test_a_batch_that_is_too_large_is_split() -> None:
    base = tiny_base()
    facts, known = facts_for(base)
    assert finish(known_facts(base.model, base.tokenizer, facts * 70)) == known * 70


def test_the_full_size_keeps_all_and_a_small_one_does_not(family: str) -> None:
    base, elastic = tiny_base(family), tiny_elastic(family)
    facts, full = facts_for(base)
    assert finish(known_facts(elastic.model, elastic.tokenizer, facts)) == full
    assert facts_kept(full, full) == 1.0
    with elastic.at(elastic.planner.at_ratio(0.3)):
        cut = finish(known_facts(elastic.model, elastic.tokenizer, facts))
    kept = facts_kept(full, cut)
    assert kept is not None and kept < 1.0
    assert kept == sum(a and b for a, b in zip(full, cut, strict=True)) / sum(full)


def test_only_facts_that_the_full_model_knows_count() -> None:
    assert facts_kept([True, True, False, True, True], [True, False, True, True, True]) == 0.75
    assert facts_kept([False, False], [True, False]) is None
    with pytest.raises(ValueError, match="shorter"):
        facts_kept([True, True], [True])


def test_progress_counts_facts() -> None:
    base, steps = tiny_base(), list[Progress]()
    known = finish(known_facts(base.model, base.tokenizer), steps.append)
    assert len(known) == len(FACTS) == steps[-1].done == steps[-1].total
    assert [step.done for step in steps] == sorted({step.done for step in steps})


@pytest.mark.real
def test_the_default_model_knows_enough_of_them_to_lose(default_gguf: Path) -> None:
    base = load_base()
    known = finish(known_facts(base.model, base.tokenizer))
    assert sum(known) >= 120 and sum(known) >= 0.7 * len(FACTS)
    by_prompt = {fact.prompt: right for fact, right in zip(FACTS, known, strict=True)}
    assert by_prompt["The capital of Germany is called"]
