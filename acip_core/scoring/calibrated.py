"""A predicted order calibrated on a few cuts: what a layer's directions turn out to be worth where the cut runs.

The prediction adds up what each layer loses alone, at the full model. Errors are not independent: they grow through
depth, and some are undone by later layers. At a few sizes the gradient by the masks next to the cut says what the next
direction of every layer is worth in the model as it is cut there,

    worth ≈ − ½ (∂KL/∂mask of the last kept directions + ∂KL/∂mask of the first dropped ones),

the trapezoid between 1, where they are kept, and 0, where they are dropped; exact where the loss is quadratic in the
mask, as predicted. An order spends best when this is the same for each parameter in all layers. So every layer gets one
factor for all its scores, worth ÷ prediction, and within a layer the order stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..errors import ModelError
from ..model.elastic_model import ElasticModel
from ..model.size_planner import DENSE, Plan
from ..progress import Progress, Steps
from ..training.autocast import mixed_precision
from ..training.distillation import divergence
from .envelope import envelope_scores

_BESIDE = 1 / 16  # share of a layer's directions that is looked at on each side of the cut
_FURTHEST = 8.0  # a layer's factor, and its inverse
_TRUST = 0.7  # share of a round's logarithm that is believed: single layers' worths are noisy


@dataclass(frozen=True)
class OrderCalibration:
    """How a predicted order is calibrated.

    Attributes:
        ratios: sizes at which layers are looked at.
        rounds: each measures at the cuts of the order that the one before made.
        windows: calibration windows per corpus, read at every size.
    """

    ratios: tuple[float, ...] = (0.9, 0.8, 0.65, 0.5)
    rounds: int = 2
    windows: int = 8


def calibrated_scores(
    elastic: ElasticModel, gains: Mapping[str, torch.Tensor], windows: torch.Tensor, settings: OrderCalibration
) -> Steps[dict[str, torch.Tensor]]:
    """Envelope scores of gains times one factor for each layer; the model is unchanged afterwards.

    Args:
        elastic: without adapters; its factors in the order of `gains`.
        gains: (r,) predicted loss of every layer's directions, descending.
        windows: (windows, length) token ids.

    Returns:
        float32 (r,) per layer.

    Raises:
        ModelError: a divergence is not finite.
    """
    shapes, count = elastic.elastic_layers().shapes, len(settings.ratios)

    def scores(factors: Mapping[str, float]) -> dict[str, torch.Tensor]:
        return {
            name: envelope_scores(gain * factors[name], shapes[name], pivoted=elastic.pivoted)
            for name, gain in gains.items()
        }

    factors = dict.fromkeys(gains, 1.0)
    for turn in range(settings.rounds):
        planner = elastic.planner_for(0, scores=scores(factors))
        found: dict[str, list[float]] = {name: [] for name in gains}
        for place, ratio in enumerate(settings.ratios):
            said = _Said(turn * count + place, settings.rounds * count, f"round {turn + 1}, {ratio:.0%}")
            for name, value in (yield from _worths(elastic, planner.at_ratio(ratio), gains, windows, said)).items():
                found[name].append(value)
        for name, values in found.items():
            change = min(max(sum(values) / len(values), 1 / _FURTHEST), _FURTHEST) if values else 1.0
            factors[name] = min(max(factors[name] * change**_TRUST, 1 / _FURTHEST), _FURTHEST)
    return scores(factors)


class _Said(NamedTuple):
    """Which of how many cuts is looked at, and what to call it."""

    done: int
    total: int
    note: str


def _worths(
    elastic: ElasticModel, plan: Plan, gains: Mapping[str, torch.Tensor], windows: torch.Tensor, said: _Said
) -> Steps[dict[str, float]]:
    """Worth ÷ prediction of the directions beside a cut, of every layer that is cut, relative to that of all layers."""
    layers = elastic.elastic_layers()
    ranks = dict(zip(layers, plan.ranks, strict=True))
    beside = {name: _beside(rank, len(layers[name].down)) for name, rank in ranks.items()}
    wider = replace(plan, ranks=tuple(rank + beside[name] for name, rank in ranks.items()))
    whole = replace(plan, ranks=(DENSE,) * len(ranks))
    with _masked(elastic, {name: ranks[name] for name, count in beside.items() if count}) as (masks, mask):
        for index, window in enumerate(windows):
            ids = window[None].to(elastic.model.device)
            with torch.no_grad():
                teacher = _logits(elastic, ids, whole)
            mask()
            loss = divergence(teacher, F.log_softmax(_logits(elastic, ids, wider), dim=-1))
            if not math.isfinite(loss.item()):
                raise ModelError(f"The divergence at {plan.ratio:.0%} of the size is not finite; the model is damaged.")
            loss.backward()
            done, total = said.done * len(windows) + index + 1, said.total * len(windows)
            yield Progress("calibrating the order", done, total, said.note)
    pairs = {}
    for name, leaf in masks.items():
        near = slice(ranks[name] - beside[name], ranks[name] + beside[name])
        assert leaf.grad is not None
        pairs[name] = -float(leaf.grad[near].sum()) / 2 / len(windows), float(gains[name][near].sum())
    worth, predicted = map(sum, zip(*pairs.values(), strict=True)) if pairs else (0.0, 0.0)
    if not (worth > 0 and predicted > 0):
        return {}
    return {name: w / p * predicted / worth for name, (w, p) in pairs.items() if p > 0}


def _beside(rank: int, rows: int) -> int:
    """How many directions are looked at on each side of a cut; none where the layer is whole or gone."""
    return min(max(1, int(_BESIDE * rows)), rank, rows - rank) if rank != DENSE else 0


def _logits(elastic: ElasticModel, ids: torch.Tensor, plan: Plan) -> torch.Tensor:
    with mixed_precision(ids.device), elastic.on_this_thread(plan):
        return elastic.model(ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()


@contextmanager
def _masked(
    elastic: ElasticModel, ranks: Mapping[str, int]
) -> Iterator[tuple[dict[str, torch.Tensor], Callable[[], None]]]:
    """Masks on the directions of these layers, 1 below the rank, whose gradients add up; call to mask the next pass."""
    layers = elastic.elastic_layers()
    trainable = {p: p.requires_grad for p in elastic.model.parameters()}
    banks = {name: layers[name].down for name in ranks}
    masks = {
        name: (torch.arange(len(down), device=down.device) < ranks[name]).to(down.dtype).requires_grad_()
        for name, down in banks.items()
    }

    def mask() -> None:
        for name, down in banks.items():
            layers[name].down = down * masks[name][:, None]

    elastic.model.requires_grad_(False)
    try:
        yield masks, mask
    finally:
        for name, down in banks.items():
            layers[name].down = down
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
