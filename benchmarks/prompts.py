"""`python -m benchmarks.prompts`: which repetition penalty, and which prompts the page's prepared texts begin with.

Every line of `prompts.txt` is continued by the full model as the page does it. A prompt is good where the full model
finds its text likely, no three words come twice, and what it says is true, which is read, not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from acip_core.artifacts.loading import install_coding, open_model
from acip_core.generation.engine import Engine
from acip_core.generation.sampling import SamplingConfig
from acip_core.model.elastic_model import ElasticModel
from acip_core.model.size_planner import BOTH, Plan
from acip_core.progress import finish

_CANDIDATES = Path(__file__).with_name("prompts.txt")
_TOGETHER = 8  # texts in one pass
_SIZES = (1.0, 0.28)  # of the published bytes, at which penalties are compared


@dataclass(frozen=True)
class Written:
    """What a size makes of a prompt.

    Attributes:
        distinct: share of its trigrams of words that come for the first time.
        perplexity: of the text to the full model, without the penalty.
    """

    prompt: str
    text: str
    distinct: float
    perplexity: float


def distinct_trigrams(text: str) -> float:
    """Share of a text's trigrams of words that come for the first time; 1 for a text without any."""
    words = text.lower().split()
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(trigrams)) / len(trigrams) if trigrams else 1.0


def complete(engine: Engine, prompts: Sequence[str], plan: Plan, sampling: SamplingConfig) -> Iterator[Written]:
    """What a size makes of prompts, several at a time."""

    def one(prompt: str) -> Written:
        text, nats = "", []
        for step in engine.compare(prompt, (plan,), sampling, judge=True):
            text += step[0].text
            nats += [-math.log(max(p, 1e-30)) for p in step[0].probabilities]
        return Written(prompt, text, distinct_trigrams(f"{prompt}{text}"), math.exp(sum(nats) / max(1, len(nats))))

    with ThreadPoolExecutor(_TOGETHER) as threads:
        yield from threads.map(one, prompts)


def compare_penalties(elastic: ElasticModel, prompts: Sequence[str], penalties: Sequence[float], tokens: int) -> None:
    """Print what each penalty does to texts of the full model and of a small size."""
    engine, planner = Engine(elastic), elastic.planners[BOTH]
    print(f"{'penalty':>7} {'size':>5} {'distinct':>8} {'all over 0.9':>12} {'perplexity':>10}")
    for penalty in penalties:
        for size in _SIZES:
            plan = elastic.planner.at_ratio(1.0) if size == 1 else planner.at_ratio(size)
            sampling = SamplingConfig(max_new_tokens=tokens, repetition_penalty=penalty)
            texts = list(complete(engine, prompts, plan, sampling))
            distinct = sum(t.distinct for t in texts) / len(texts)
            whole = sum(t.distinct > 0.9 for t in texts) / len(texts)
            perplexity = math.exp(sum(math.log(t.perplexity) for t in texts) / len(texts))
            print(f"{penalty:>7} {size:>5.0%} {distinct:>8.3f} {whole:>12.2f} {perplexity:>10.2f}", flush=True)


def main(
    penalty: Annotated[list[float], typer.Option(help="Several are compared, one is used for all prompts.")] = [1.15],  # noqa: B006
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to write.")] = 36,
    every: Annotated[int, typer.Option(min=1, help="Take every so many prompts.")] = 1,
) -> None:
    """Measure penalties, or list the prompts with their texts, likeliest first."""
    prompts = _CANDIDATES.read_text().splitlines()[::every]
    loaded = finish(open_model())
    if len(penalty) > 1:
        finish(install_coding(loaded))
        return compare_penalties(loaded.elastic, prompts, penalty, tokens)
    plan = loaded.elastic.planner.at_ratio(1.0)
    sampling = SamplingConfig(max_new_tokens=tokens, repetition_penalty=penalty[0])
    for text in sorted(complete(Engine(loaded.elastic), prompts, plan, sampling), key=lambda t: t.perplexity):
        print(f"{text.perplexity:6.2f} {text.distinct:.2f} {text.prompt}▸{text.text!r}", flush=True)


if __name__ == "__main__":
    typer.run(main)
