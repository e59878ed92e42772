"""The stage of `precompute` that trains factors: its own text, a budget's steps, blocks, end to end, scales."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from accelerate import PartialState

from ..data.framing import framing
from ..model.elastic_model import ElasticModel
from ..model.trained_factors import FactorUpdate
from ..progress import Progress, Steps
from ..storage.resumable import ResumableRun
from ..training.balanced import updates_of
from ..training.blocks import BlockConfig, train_blocks
from ..training.data_parallel import mean_numbers
from ..training.factors import FactorConfig, TrainedFactors, train_factors
from ..training.sampled_text import sampled_windows
from ..training.scaling import scale_factors, scaling_as_steps

_AT_ONCE = {"cpu": 16, "cuda": 512}  # windows that are sampled side by side
_TIMED = 2  # windows that are sampled and read to find out what a budget buys


def train_within_budget(
    elastic: ElasticModel,
    text: torch.Tensor,
    settings: FactorConfig | None,
    blocks: BlockConfig | None,
    budget: float | None,
    resumable: ResumableRun,
) -> Steps[tuple[dict[str, FactorUpdate], TrainedFactors | None]]:
    """Train the factors block by block, end to end, or both; each part of a killed run stays.

    Args:
        text: (windows, length) of calibration. End to end, and by blocks before that, text of the model's own is read
            besides.
        settings: of the training end to end; None leaves it out.
        blocks: of that block by block before it; None leaves it out.
        budget: hours for all of it; None takes steps and windows as `settings` has them.

    Returns:
        What training adds to the factors of every layer, and what the training end to end was.
    """
    if settings is not None and budget is not None:
        second = yield from resumable.number("seconds", _seconds_per_step(elastic, text, settings))
        steps = int(budget * 3600 / second) - (0 if blocks is None else _as_steps(blocks, len(text)))
        steps = max(1, steps - scaling_as_steps(steps, settings.batch))
        settings = replace(settings, steps=steps, sampled=settings.sampled * steps // settings.steps)
    if settings is not None:
        text = torch.cat([(yield from _sampled(elastic, text, settings, resumable)), text])
    start = None
    if blocks is not None:
        start = (yield from train_blocks(elastic, text, blocks, resumable)).factors
    if settings is None:
        assert start is not None
        return updates_of(elastic.elastic_layers(), start), None
    found = yield from train_factors(elastic, text, settings, resumable.path("factors.safetensors"), start)
    updates = yield from scale_factors(elastic, text, found.updates, settings, resumable.path("scales.safetensors"))
    return updates, found


def _as_steps(blocks: BlockConfig, windows: int) -> int:
    """Steps end to end that take at least as long: a step of all blocks, or two batches that pass them, is one."""
    return blocks.steps + -(-min(blocks.windows, windows) // (2 * blocks.batch))


def _seconds_per_step(elastic: ElasticModel, text: torch.Tensor, settings: FactorConfig) -> Steps[float]:
    """What a step takes on this machine, its share of the sampled text with it; the same for all processes."""
    yield Progress("timing the training", 0, 1)
    processes = PartialState().num_processes
    started = time.monotonic()
    sampled_windows(elastic.model, text, framing(elastic.tokenizer).lead, _TIMED, settings.seed)
    sampling = (time.monotonic() - started) / _TIMED
    started = time.monotonic()
    yield from train_factors(elastic, text, replace(settings, steps=1, batch=_TIMED * processes))
    training = (time.monotonic() - started) / _TIMED
    step = settings.batch / processes * training + settings.sampled / settings.steps * sampling
    return mean_numbers([step], elastic.model.device)[0]


def _sampled(
    elastic: ElasticModel, text: torch.Tensor, settings: FactorConfig, resumable: ResumableRun
) -> Steps[torch.Tensor]:
    """(windows, length) of the model's own text, a file for each few."""
    lead, at_once = framing(elastic.tokenizer).lead, _AT_ONCE.get(elastic.model.device.type, 16)
    parts = [text[:0]]
    for start in range(0, settings.sampled, at_once):
        count = min(at_once, settings.sampled - start)

        def sample(start: int = start, count: int = count) -> Steps[dict[str, torch.Tensor]]:
            yield Progress("sampling text", start, settings.sampled)
            seed = settings.seed * 1_000_003 + start
            return {"text": sampled_windows(elastic.model, text, lead, count, seed)}

        parts.append((yield from resumable.tensors(f"sampled-{start}", sample()))["text"])
    return torch.cat(parts)
