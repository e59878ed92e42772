"""Dobi-SVD without remapping (arXiv 2502.02723): one learned truncation position per layer, one run per target size.

Direction i of a layer with rank r passes through a smooth gate around the position k ∈ (0, 1), its share of the rank,

    gate_i = ½ tanh(β (k − (i + ½) / r)) + ½

and Adam moves the positions alone on `NLL + weight · (size ratio − target)²`. Where this is not the paper's method:

- it truncates the SVD of each batch's activations and differentiates through that; the gates here act on the fixed
  directions of given factors, in a whitened basis the best truncation of the activations on average;
- the weights are not updated by incremental PCA afterwards: those directions are what that update aims at;
- its gate counts i in directions, with β = 10; in shares of a rank that would be 10 r, and at a few dozen steps only
  directions next to the position would have a say. `sharpness` is much lower;
- a layer's size counts as everywhere here: dense from break-even on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ModelError
from ..model import autocast
from ..model.autocast import mixed_precision
from ..model.base_model import BaseModel
from ..model.factorization import Factors
from ..model.target_layers import named_layers
from ..progress import Progress, Steps
from ..training.distillation import window_at
from .masked import swapped_modules


@dataclass(frozen=True)
class DobiConfig:
    """Attributes:
    steps: optimization steps of one window each.
    learning_rate: of the positions.
    sharpness: β; the gate of a layer rises over about 2 / β of its rank.
    weight: of the squared distance from the target size; far above this, the loss has no say any more. In the last
        third of the steps it grows a hundredfold, so that the learned size is the target.
    """

    steps: int = 40
    learning_rate: float = 0.02
    sharpness: float = 40.0
    weight: float = 20.0
    seed: int = 0


class _Gated(nn.Module):
    """A target layer as the sum of all its directions, each behind its gate."""

    def __init__(
        self, layer: nn.Linear, factors: Factors, position: nn.Parameter, sharpness: float, dtype: torch.dtype
    ):
        super().__init__()
        self.up = factors.up.to(dtype)
        self.down = factors.down(layer.weight.detach().float()).to(dtype)
        self.bias, self.position, self.sharpness = layer.bias, position, sharpness
        rank = len(self.up)
        self.places = (torch.arange(rank, device=self.up.device) + 0.5) / rank

    def gate(self) -> torch.Tensor:
        return 0.5 * torch.tanh(self.sharpness * (self.position - self.places)) + 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = (F.linear(x, self.down) * self.gate().to(self.down.dtype)) @ self.up
        return y if self.bias is None else y + self.bias


def dobi_scores(
    base: BaseModel,
    factors: Mapping[str, Factors],
    windows: torch.Tensor,
    ratio: float,
    settings: DobiConfig = DobiConfig(),
) -> Steps[dict[str, torch.Tensor]]:
    """Learn where to truncate every layer for one size; the model is unchanged afterwards.

    Args:
        windows: (windows, length) calibration token ids.
        ratio: target size ratio, without adapters.

    Returns:
        float32 (r,) per layer: `1 − (i + ½) / (k r)`, positive for the first `k · r` directions. Where the learned size
        misses `ratio` by a little, the cut there keeps the same share of them in every layer.

    Raises:
        ModelError: the loss is not finite.

    Reference: Dobi-SVD (arXiv 2502.02723), differentiable truncation position.
    """
    model, targets = base.model, named_layers(base.model, factors)
    shapes = list(targets.shapes.values())
    start = [ratio * m * n / (m + n) / min(m, n) for m, n in shapes]
    positions = [nn.Parameter(torch.tensor(value, device=model.device)) for value in start]
    optimizer = torch.optim.Adam(positions, lr=settings.learning_rate)
    dense = sum(m * n for m, n in shapes)
    native = autocast.mixed_precision_is_native(model.device)
    position_of = dict(zip(targets, positions, strict=True))

    def gated(name: str, layer: nn.Linear) -> _Gated:
        dtype = torch.bfloat16 if native else layer.weight.dtype
        return _Gated(layer, factors[name], position_of[name], settings.sharpness, dtype)

    with swapped_modules(model, factors, gated) as layers:
        for step in range(settings.steps):
            ids = windows[window_at(step, len(windows), settings.seed)][None].to(model.device)
            with mixed_precision(model.device):
                logits = model(ids, use_cache=False).logits[0, :-1].float()
            loss = F.cross_entropy(logits, ids[0, 1:])
            if not torch.isfinite(loss):
                raise ModelError(f"The loss is not finite at step {step + 1} of Dobi-SVD at {ratio:.0%}.")
            costs = [
                (layer.gate().sum() * (m + n)).clamp_max(m * n) for layer, (m, n) in zip(layers, shapes, strict=True)
            ]
            size = torch.stack(costs).sum() / dense
            late = max(0.0, 3 * (step + 1) / settings.steps - 2)
            (loss + settings.weight * 100**late * (size - ratio).square()).backward()
            optimizer.step()
            optimizer.zero_grad()
            for position in positions:  # outside, all gates are shut or open and their gradient is lost
                position.data.clamp_(0, 1)
            note = f"loss {loss.item():.3f}, size {size.item():.1%}"
            yield Progress(f"Dobi-SVD at {ratio:.0%}", step + 1, settings.steps, note)
    if not all(math.isfinite(position.item()) for position in positions):
        raise ModelError("Dobi-SVD has diverged; lower its learning rate.")
    return {name: _score(len(factors[name].directions), position) for name, position in position_of.items()}


def _score(rank: int, position: torch.Tensor) -> torch.Tensor:
    """(rank,) float32, which falls through zero where the layer is to be truncated."""
    places = (torch.arange(rank) + 0.5) / rank
    return (1 - places / position.detach().cpu().clamp_min(1e-6)).float()
