"""ASVD (arXiv 2312.05821): singular values of activation-scaled weights, ranks by each layer's own sensitivity.

Inputs are scaled per channel by `s_j = (mean |x_j|)^α` before the SVD. The sensitivity of a layer at a size is what the
loss of the whole model rises by when this layer alone is truncated to it; a common threshold on it gives all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import nn

from ..base import BaseModel, target_layers
from ..basis import Basis, diagonal_moment
from ..elastic import build_elastic
from ..errors import ModelError
from ..evaluate import token_losses
from ..factorize import Factors
from ..progress import Progress, Steps
from .baselines import svd_magnitude_scores

CANDIDATES = (0.8, 0.6, 0.4, 0.2)


def asvd_basis(model: nn.Module, windows: torch.Tensor, alpha: float = 0.5) -> Steps[Basis]:
    """Diagonal moments whose scale is `(mean |x_j|)^α` of every layer's input.

    Args:
        windows: (windows, length) calibration token ids.

    Raises:
        ModelError: the model's activations are not finite.
    """
    targets = target_layers(model)
    sums: dict[str, torch.Tensor] = {}

    def hook(name: str):
        def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            size = inputs[0].detach().flatten(0, -2).float().abs().mean(0)
            sums[name] = sums.get(name, torch.zeros_like(size)) + size

        return add

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in targets.items()]
    try:
        with torch.no_grad():
            for index, window in enumerate(windows):
                model(window[None].to(model.device), use_cache=False, logits_to_keep=1)
                yield Progress("activation scales", index + 1, len(windows))
    finally:
        for handle in hooks:
            handle.remove()
    basis = {}
    for name, total in sums.items():
        if not torch.isfinite(total).all():
            raise ModelError(f"The activations that {name} reads are not finite; the model is damaged.")
        mean = (total / len(windows)).cpu()
        basis[name] = diagonal_moment((name,), mean.clamp_min(mean.max() * 1e-6 + 1e-30) ** alpha)
    return {name: basis[name] for name in targets}


def asvd_scores(
    base: BaseModel,
    factors: Mapping[str, Factors],
    windows: torch.Tensor,
    candidates: Sequence[float] = CANDIDATES,
) -> Steps[dict[str, torch.Tensor]]:
    """Truncate one layer after the other at every candidate size and score its directions by the loss it costs.

    The model becomes elastic. Between candidates the sensitivity is interpolated, so one map serves all sizes.

    Args:
        windows: (windows, length) calibration token ids that the sensitivity is measured on.
        candidates: size ratios of a layer.

    Returns:
        float32 (r,) per layer: the rise of the mean loss, in nats per token, when the layer is cut just below a
        direction; negative, and falling, beyond break-even.

    Raises:
        ModelError: the full model's loss is not finite.
    """
    elastic = yield from build_elastic(base, factors, svd_magnitude_scores(factors))
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in elastic.elastic_layers().items()}
    full = elastic.planner.at_ratio(1.0)
    reference = _loss(base, windows)
    if reference != reference or reference == float("inf"):
        raise ModelError("The full model's loss on the calibration text is not finite; the model is damaged.")
    scores = {}
    sizes = sorted(candidates, reverse=True)
    for index, (name, (m, n)) in enumerate(shapes.items()):
        rises = [0.0]
        for size in sizes:
            ranks = list(full.ranks)
            ranks[index] = int(size * m * n / (m + n))
            with elastic.at(replace(full, ranks=tuple(ranks))):
                rises.append(max(rises[-1], _loss(base, windows) - reference))  # monotone: noise must not reorder
        scores[name] = _interpolated([1.0, *sizes], rises, (torch.arange(min(m, n))) * (m + n) / (m * n))
        yield Progress("sensitivity", index + 1, len(shapes), f"{name} at {sizes[-1]:.0%}: +{rises[-1]:.3f}")
    return scores


def _loss(base: BaseModel, windows: torch.Tensor) -> float:
    return sum(token_losses(base.model, window[None]).mean().item() for window in windows) / len(windows)


def _interpolated(sizes: list[float], rises: list[float], at: torch.Tensor) -> torch.Tensor:
    """Piecewise linear through (size, rise), continued with its last slope below and falling past break-even above."""
    sizes, rises = [*sizes, 0.0], [*rises, rises[-1] + _slope(sizes, rises) * sizes[-1]]
    result = 1 - at  # beyond 1 these directions cost nothing and buy nothing
    for (high, low), (less, more) in zip(pairwise(sizes), pairwise(rises), strict=True):
        inside = (at <= high) & (at >= low)
        result = torch.where(inside, less + (more - less) * (high - at) / (high - low), result)
    return result.float()


def _slope(sizes: list[float], rises: list[float]) -> float:
    return (rises[-1] - rises[-2]) / (sizes[-2] - sizes[-1])
