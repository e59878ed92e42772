"""A score map for cuts without adapters: Fisher information measured on ever smaller cuts, each ranking what is left.

What a direction is worth depends on which others are still there: the Fisher information of the full model is a good
guide to 90 % and a poor one to 50 %. So the model is cut a little, the information of the directions that are left is
measured anew, and the next cut goes by that; what has been cut once ranks below all that was left. That halves the
perplexity of small sizes. Adapters change what is worth keeping there, and below 75 % they do better on the information
of the full model (`fisher_scores`), the default where adapters are trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..model.factorization import Factors
from ..model.size_planner import DENSE, SizePlanner
from ..model.target_layers import named_layers
from ..progress import Progress, Steps
from ..storage.resumable import ResumableRun
from .envelope import envelope_scores
from .fisher import accumulated, per_token

STAGES = (0.92, 0.84, 0.76, 0.68, 0.6, 0.52, 0.44)
_ENVELOPE_FROM = 0.75  # below, hardly a layer returns to its dense weight, and single directions rank better


def iterative_scores(
    model: nn.Module,
    factors: Mapping[str, Factors],
    windows: torch.Tensor,
    adapter_rank: int = 0,
    stages: tuple[float, ...] = STAGES,
    run: ResumableRun | None = None,
) -> Steps[dict[str, torch.Tensor]]:
    """Rank all directions by the Fisher information of the smallest measured cut that still has them.

    At the full model, and at each of the size ratios `stages`, a share of the windows gives `Σ_tokens (z_i ∂NLL/∂z_i)²`
    of all directions left, per parameter; above 75 % on the envelope of each layer's size.

    Args:
        windows: (windows, length) calibration token ids; every stage reads its own share of them if there are enough.
        adapter_rank: of the adapters that will be trained for these scores; they count in a layer's size.
        stages: size ratios, descending; those that adapters alone exceed are left out.
        run: keeps the result of every finished stage, beside those of runs on other text or factors.

    Returns:
        float32 (r,) per layer, the position of each direction among all of the model, the best highest, ÷ their
        number.

    Raises:
        ModelError: the loss of a window is not finite.
    """
    shapes = named_layers(model, factors).shapes
    floor = sum(min(adapter_rank * (m + n), m * n) for m, n in shapes.values()) / sum(m * n for m, n in shapes.values())
    ratios = [1.0, *(ratio for ratio in stages if ratio > floor)]
    share = max(1, len(windows) // len(ratios))
    directions = (found.directions[:, :8] for found in factors.values())
    stages_run = (run or ResumableRun(None)).part("stages", adapter_rank, ratios, windows, directions)

    def ranked(stage: int, positions: Mapping[str, torch.Tensor]) -> Steps[dict[str, torch.Tensor]]:
        """Positions (r,) per layer after a stage, from those before it."""
        ratio = ratios[stage]
        left = {name: torch.ones(len(f.directions), dtype=torch.bool) for name, f in factors.items()}
        if stage:
            left = _cut(positions, shapes, adapter_rank, ratio)
        text = windows[(stage + torch.arange(share) * len(ratios)) % len(windows)]  # from everywhere in the text
        steps = accumulated(per_token, model, factors, text, left)
        gains = yield from _located(steps, stage * share, share * len(ratios), ratio)
        scores = {
            name: envelope_scores(gain, shapes[name], adapter_rank)
            if ratio >= _ENVELOPE_FROM
            else gain / sum(shapes[name])
            for name, gain in gains.items()
        }
        return _ranked(scores, left, positions)

    positions: dict[str, torch.Tensor] = {}
    for stage in range(len(ratios)):
        found = yield from stages_run.tensors(f"stage-{stage}", ranked(stage, positions))
        positions = {name: found[name] for name in shapes}
    return positions


def _cut(
    positions: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, int]], adapter_rank: int, ratio: float
) -> dict[str, torch.Tensor]:
    """Bool (r,) per layer: the directions that the model has at a size ratio."""
    planner = SizePlanner(shapes, {name: position.numpy() for name, position in positions.items()}, adapter_rank)
    left = {}
    for (name, position), rank in zip(positions.items(), planner.at_ratio(ratio).ranks, strict=True):
        left[name] = torch.full((len(position),), rank == DENSE)
        if rank != DENSE:
            left[name][position.argsort(descending=True)[:rank]] = True
    return left


def _ranked(
    scores: Mapping[str, torch.Tensor], left: Mapping[str, torch.Tensor], positions: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Positions (r,) per layer: directions left by their scores, above all others, which keep their order."""
    flat, is_left = torch.cat(list(scores.values())), torch.cat(list(left.values()))
    before = torch.cat(list(positions.values())) if positions else torch.zeros(len(flat))
    old, new = before.argsort(stable=True), flat.argsort(stable=True)
    order = torch.cat([old[~is_left[old]], new[is_left[new]]])
    result = torch.empty(len(flat))
    result[order] = torch.arange(1, len(flat) + 1) / len(flat)
    return dict(zip(scores, result.split([len(score) for score in scores.values()]), strict=True))


def _located(steps: Steps[dict[str, torch.Tensor]], before: int, total: int, ratio: float):
    """The same steps, counted over all stages."""
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return stop.value
        yield Progress("scoring", before + step.done, total, f"at {ratio:.0%}, {step.note}")
