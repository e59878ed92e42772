"""Facts that a tiny random model knows, and what its sizes say of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from playwright.sync_api import Page

from acip_core.artifacts.loading import Loaded
from acip_core.data.framing import framing
from acip_core.evaluation.facts import FACTS, SKILLS, Fact
from acip_core.model.base_model import BaseModel
from acip_core.pipelines.knowledge import KnowledgeRun
from acip_core.progress import finish
from acip_core.storage.resumable import ResumableRun


def tiny_facts(base: BaseModel, step: int = 9) -> tuple[Fact, ...]:
    """Facts of many fields whose answer is the character that a tiny model expects.

    Args:
        step: the length of each in characters is a multiple of it, so that a size answers them in few passes.
    """
    facts = []
    for fact in (fact for fact in FACTS + SKILLS if len(fact.prompt) % step == 0):
        ids = base.tokenizer(fact.prompt + " ", add_special_tokens=False).input_ids
        with torch.inference_mode():
            token = int(base.model(torch.tensor([[*framing(base.tokenizer).lead, *ids]])).logits[0, -1].argmax())
        answer = str(base.tokenizer.decode([token]))
        if len(answer) == 1 and answer.isprintable() and answer != " ":
            facts.append(Fact(fact.prompt, f" {answer}", fact.field))
    return tuple(facts)


def with_knowledge(loaded: Loaded, step: int = 5) -> Loaded:
    """The same opened model, asked in all modes that it has now.

    Args:
        step: as `tiny_facts`; 5 leaves 61 facts, and 10 leaves 25.
    """
    run = KnowledgeRun(loaded.elastic, ResumableRun(None), tiny_facts(loaded.elastic.base, step))
    finish(run.ask(loaded.elastic))
    return replace(loaded, knowledge=run.knowledge())


def lit(page: Page) -> str:
    """Flags as the tiles show them."""
    return page.evaluate(
        "() => [...document.querySelectorAll('#knowledge [data-fact]')]"
        ".map(tile => tile.hasAttribute('data-known') ? '1' : '0').join('')"
    )
