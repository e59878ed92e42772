"""The greedy completions of a few prompts at every size, made by the engine in batches of neighbouring sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..artifacts.completions import EXAMPLES, NEW_TOKENS, REPETITION_PENALTY, Completions
from ..generation.engine import Engine, SamplingConfig, finished_texts
from ..model.elastic_model import ElasticModel
from ..model.size_planner import DIRECTIONS, Plan
from ..model.tracks import tracks_of
from ..progress import Progress, Steps

_BATCH = 6  # sizes side by side; neighbours share most of their directions
STRIDE = 2  # percent of the directions between two sizes; where bits are spent every position has its own text


def complete_examples(
    elastic: ElasticModel, prompts: Sequence[str] = EXAMPLES, modes: Sequence[str] | None = None
) -> Steps[list[Completions]]:
    """Continue every prompt at every size the model has, several sizes in one batch.

    Args:
        modes: what to spend; all that the model has by default.
    """
    engine = Engine(elastic)
    sampling = SamplingConfig(max_new_tokens=NEW_TOKENS, repetition_penalty=REPETITION_PENALTY)
    modes = tuple(elastic.planners) if modes is None else modes
    sizes = {mode: example_plans(elastic, mode) for mode in modes}
    first = {
        mode: next(m for m in modes if _same(sizes[m], sizes[mode])) for mode in modes
    }  # bits alone are often best
    done: list[Completions] = []
    total, count = len(prompts) * sum(len(sizes[mode]) for mode in set(first.values())), 0
    for prompt in prompts:
        written: dict[str, dict[float, str]] = {}
        for mode in dict.fromkeys(first.values()):
            texts: dict[float, str] = {}
            percents = list(sizes[mode])
            for start in range(0, len(percents), _BATCH):
                batch = percents[start : start + _BATCH]
                steps = engine.compare(prompt, [sizes[mode][percent] for percent in batch], sampling)
                texts |= {batch[i]: text for i, text in finished_texts(steps)}
                count += len(batch)
                yield Progress("completing the examples", count, total, f"“{prompt[:40]}” down to {batch[-1]}%")
            written[mode] = dict(sorted(texts.items(), reverse=True))
        done += [Completions(prompt, NEW_TOKENS, written[first[mode]], mode, REPETITION_PENALTY) for mode in modes]
    return done


def example_plans(elastic: ElasticModel, mode: str) -> dict[float, Plan]:
    """Sizes in percent at which texts of a mode are written, the largest first, and their plans."""
    track = tracks_of(elastic.planners)[mode]
    percents = track.distinct[:: STRIDE if mode == DIRECTIONS else 1]
    return {percent: track.plan_at(percent)[1] for percent in percents}


def _same(some: dict[float, Plan], others: dict[float, Plan]) -> bool:
    """Whether two modes have the same plans at the same sizes."""
    one, other = ({percent: replace(plan, mode="") for percent, plan in of.items()} for of in (some, others))
    return one == other
