"""The greedy completions of a few prompts at every size, made by the engine in batches of neighbouring sizes."""

from __future__ import annotations

from collections.abc import Sequence

from ..artifacts.completions import EXAMPLES, NEW_TOKENS, PERCENTS, Completions
from ..generation.engine import Engine, SamplingConfig, finished_texts
from ..model.elastic_model import ElasticModel
from ..progress import Progress, Steps

_BATCH = 6  # sizes side by side; neighbours share most of their directions


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
            steps = engine.compare(prompt, plans, SamplingConfig(max_new_tokens=NEW_TOKENS))
            texts |= {sizes[i]: text for i, text in finished_texts(steps)}
            count += len(sizes)
            yield Progress("completing the examples", count, total, f"“{prompt[:40]}” down to {sizes[-1]}%")
        done.append(Completions(prompt, NEW_TOKENS, dict(sorted(texts.items(), reverse=True))))
    return done
