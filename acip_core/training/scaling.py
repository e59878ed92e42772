"""How much of what training added stays: a scale for each stretch of rows, by layer and side, trained as factors are.

Training moves millions of entries by noise as well as by what they learn, and rows that small sizes share with large
ones further than these want. Scales are few numbers, so a few steps settle them: y = Σᵢ (uᵢ + b Δuᵢ)(vᵢ + a Δvᵢ)ᵀ x,
with a and b sums of what all layers of a type share and of a layer's own (layer-wise task arithmetic, arXiv 2310.02575,
on stretches of directions that enter at about the same size).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

from ..model.elastic_model import ElasticModel
from ..model.size_planner import DENSE
from ..model.trained_factors import FactorUpdate, Ternary
from ..progress import Steps
from .balanced import FactorPair, FactorsInTraining
from .factors import FactorConfig, FactorRun

STEPS, BATCH = 24, 4  # at most; windows a step
_LEARNING_RATE = 0.05
_STRETCHES = 8  # by the size at which a row enters
_START = 0.85  # trained differences are too large more often than too small


def scale_factors(
    elastic: ElasticModel,
    windows: torch.Tensor,
    updates: Mapping[str, FactorUpdate],
    trained: FactorConfig,
    checkpoint: Path | None = None,
) -> Steps[dict[str, FactorUpdate]]:
    """Find the scales at which trained differences come closest to the full model.

    As many steps of four windows as the training had, 24 at most; sizes are drawn and weighed as in it, text comes in
    another order. A killed run ends like one that was not, as `train_factors`.

    Args:
        elastic: the model that was trained, the differences not installed.
        windows: (windows, length) token ids.
        updates: the differences.
        trained: how they were trained.
        checkpoint: file written every few minutes and read when it belongs to this very run.

    Returns:
        The same differences at their scales.

    Raises:
        ModelError: as `train_factors`.
    """
    processes = PartialState().num_processes
    settings = replace(
        trained,
        steps=min(STEPS, trained.steps),
        batch=min(trained.batch, -(-BATCH // processes) * processes),
        learning_rate=_LEARNING_RATE,
        seed=trained.seed + 1,
    )
    factors = ScaledFactors(elastic, updates, settings)
    yield from FactorRun(elastic, windows, settings, factors).train("scaling the factors", checkpoint)
    return factors.scaled()


def scaling_as_steps(steps: int, batch: int) -> int:
    """How many of `steps` steps of `batch` windows go to scales, where training and they are to take that long."""
    share = min(BATCH, batch) / batch
    return math.ceil(min(STEPS * share, max(0, steps) * share / (1 + share)))


class ScaledFactors(FactorsInTraining):
    """The factors of an elastic model plus trained differences, the scales of these as parameters.

    Attributes:
        parameters: what layers of a type share, (types, 2, stretches), and each layer's own, (layers, 2, stretches).

    Args:
        updates: the differences, a row for each of the factors'.
        settings: sizes from `smallest` to `largest` are trained.
    """

    def __init__(self, elastic: ElasticModel, updates: Mapping[str, FactorUpdate], settings: FactorConfig):
        super().__init__(elastic.elastic_layers())
        self.updates, self.stretches = updates, _stretches(elastic, settings.smallest, settings.largest)
        types = [name.rpartition(".")[2] for name in self.layers]
        order = list(dict.fromkeys(types))
        self.types = [order.index(kind) for kind in types]
        shared = torch.full((len(order), 2, _STRETCHES), _START, device=elastic.model.device)
        single = torch.zeros(len(types), 2, _STRETCHES, device=elastic.model.device)
        self.parameters = [shared.requires_grad_(), single.requires_grad_()]
        self.differences = {
            name: (update.down.matrix().to(shared.device), update.up.matrix().to(shared.device))
            for name, update in updates.items()
        }
        self.running = {name: _leaves(pair) for name, pair in self.own.items()}

    def _scales(self) -> dict[str, torch.Tensor]:
        """(2, rows) for every layer: of down and of up."""
        shared, single = self.parameters
        by_layer = (shared[self.types] + single).unbind()
        return {name: scales[:, rows] for (name, rows), scales in zip(self.stretches.items(), by_layer, strict=True)}

    @torch.no_grad()
    def round(self) -> None:
        for name, scales in self._scales().items():
            sides = zip(self.running[name], self.own[name], self.differences[name], scales, strict=True)
            for kept, own, more, scale in sides:
                kept.copy_(own + scale[:, None] * more)

    def pass_gradients(self) -> None:
        terms = []
        for name, scales in self._scales().items():
            for kept, more, scale in zip(self.running[name], self.differences[name], scales, strict=True):
                if kept.grad is not None:
                    terms.append(scale @ (kept.grad * more).sum(1))
                    kept.grad = None
        if terms:
            torch.stack(terms).sum().backward()

    def begun_from(self) -> Iterable[torch.Tensor]:
        return (up[:, :8] for _, up in self.differences.values())

    @torch.no_grad()
    def scaled(self) -> dict[str, FactorUpdate]:
        """The differences at their scales as they are now."""
        result = {}
        for name, scales in self._scales().items():
            update, (down, up) = self.updates[name], scales.cpu()
            result[name] = FactorUpdate(_scaled(update.down, down), _scaled(update.up, up))
        return result


def _scaled(difference: Ternary, scales: torch.Tensor) -> Ternary:
    return replace(difference, scale=difference.scale * scales)


def _leaves(pair: FactorPair) -> FactorPair:
    down, up = (side.detach().float().clone().requires_grad_() for side in pair)
    return down, up


def _stretches(elastic: ElasticModel, smallest: float, largest: float) -> dict[str, torch.Tensor]:
    """The stretch of every row of every layer, (rows,): how many of evenly spaced sizes are too small to run it."""
    sizes = torch.linspace(smallest, largest, _STRETCHES).tolist()[:-1]
    planner, layers = elastic.planner_for(0), elastic.elastic_layers()
    found = {name: torch.zeros(len(layer.down), dtype=torch.int64) for name, layer in layers.items()}
    for size in sizes:
        for stretch, rank in zip(found.values(), planner.at_ratio(size).states, strict=True):
            if rank != DENSE:
                stretch[rank:] += 1
    return found
