"""ASVD (arXiv 2312.05821): singular values of activation-scaled weights, ranks by each layer's own sensitivity.

Inputs are scaled per channel by `s_j = (mean |x_j|)^α` before the SVD. The sensitivity of a layer at a size is what the
loss of the whole model rises by when this layer alone is truncated to it; a common threshold on it gives all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import nn

from ..errors import ModelError
from ..evaluation.perplexity import token_losses
from ..model.base_model import BaseModel
from ..model.elastic_model import build_elastic
from ..model.factorization import Factors
from ..model.second_moments import Basis, diagonal_moment
from ..model.target_layers import named_layers, target_layers
from ..progress import Progress, Steps
from .baselines import svd_magnitude_scores

CANDIDATES = (0.8, 0.6, 0.4, 0.2)


def asvd_basis(
    model: nn.Module, windows: torch.Tensor, alpha: float = 0.5, layers: Collection[str] | None = None
) -> Steps[Basis]:
    """Diagonal moments whose scale is `(mean |x_j|)^α` of every layer's input.

    Args:
        windows: (windows, length) calibration token ids.
        alpha: exponent; 0 gives the plain SVD, the paper takes 0.5.
        layers: names of the target layers; all there can be by default.

    Returns:
        The basis, one moment per group of layers with a common input, all of them of side `input` and without columns.

    Raises:
        ModelError: the model's activations are not finite.

    Reference: ASVD (arXiv 2312.05821), scaling by the mean absolute activation, `S_jj = (mean |x_j|)^α`.
    """
    targets = target_layers(model) if layers is None else named_layers(model, layers)
    sizes = _Sizes()
    hooks = [layer.register_forward_pre_hook(sizes.hook(name)) for name, layer in targets.items()]
    try:
        with torch.no_grad():
            for index, window in enumerate(windows):
                model(window[None].to(model.device), use_cache=False, logits_to_keep=1)
                yield Progress("activation scales", index + 1, len(windows))
    finally:
        for handle in hooks:
            handle.remove()
    basis: Basis = {}
    for first, total in sizes.sums.items():
        if not torch.isfinite(total).all():
            raise ModelError(f"The activations that {first} reads are not finite; the model is damaged.")
        mean = (total / len(windows)).cpu()
        group = tuple(name for name in targets if sizes.first[name] == first)
        basis |= dict.fromkeys(group, diagonal_moment(group, mean.clamp_min(mean.max() * 1e-6 + 1e-30) ** alpha))
    return {name: basis[name] for name in targets}


class _Sizes:
    """Sums over windows of every input's mean |x_j|; layers called with the same tensor in a row share one.

    Attributes:
        first: by layer, the first one that reads the same input.
        sums: (channels,) by these first layers.
    """

    def __init__(self) -> None:
        self.first: dict[str, str] = {}
        self.sums: dict[str, torch.Tensor] = {}
        self._current: tuple[torch.Tensor, str] | None = None  # held, so that no other tensor takes its place

    def hook(self, name: str):
        def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0]
            if self._current is None or self._current[0] is not x:
                self._current = x, name
                size = x.detach().flatten(0, -2).float().abs().mean(0)  # (channels,)
                self.sums[name] = self.sums.get(name, torch.zeros_like(size)) + size
            self.first[name] = self._current[1]

        return add


def asvd_scores(
    base: BaseModel,
    factors: Mapping[str, Factors],
    windows: torch.Tensor,
    candidates: Sequence[float] = CANDIDATES,
) -> Steps[dict[str, torch.Tensor]]:
    """Truncate one layer after the other at every candidate size and score its directions by the loss it costs.

    The paper has nine candidates, measures perplexity, and cuts every layer at a candidate; here the loss, of which
    perplexity is the exponential, is interpolated between fewer candidates, so that one map serves all sizes.

    Args:
        base: its model becomes elastic, and runs at 100 % afterwards.
        factors: of the weights in the basis of `asvd_basis`.
        windows: (windows, length) calibration token ids that the sensitivity is measured on.
        candidates: size ratios of a layer, between 0 and 1.

    Returns:
        float32 (r,) per layer, never rising: the rise of the mean loss, in nats per token, when the layer is cut just
        below a direction; negative, and falling, beyond break-even.

    Raises:
        ModelError: the loss of the full model, or with a layer truncated, is not finite.

    Reference: ASVD (arXiv 2312.05821), sensitivity-based truncation rank searching.
    """
    elastic = yield from build_elastic(base, factors, svd_magnitude_scores(factors))
    shapes = elastic.elastic_layers().shapes
    full = elastic.planner.at_ratio(1.0)
    reference = _loss(base, windows)
    if not math.isfinite(reference):
        raise ModelError("The full model's loss on the calibration text is not finite; the model is damaged.")
    scores = {}
    sizes = sorted(candidates, reverse=True)
    for index, (name, (m, n)) in enumerate(shapes.items()):
        rises = [0.0]
        for size in sizes:
            ranks = list(full.ranks)
            ranks[index] = int(size * m * n / (m + n))
            with elastic.at(replace(full, ranks=tuple(ranks))):
                loss = _loss(base, windows)
            if not math.isfinite(loss):  # a NaN would pass for a layer that can be cut at no cost
                raise ModelError(f"The loss with {name} cut to {size:.0%} is not finite; use other calibration text.")
            rises.append(max(rises[-1], loss - reference))  # monotone: noise must not reorder
        scores[name] = _interpolated([1.0, *sizes], rises, torch.arange(min(m, n)) * (m + n) / (m * n))
        yield Progress("sensitivity", index + 1, len(shapes), f"{name} at {sizes[-1]:.0%}: +{rises[-1]:.3f}")
    return scores


def _loss(base: BaseModel, windows: torch.Tensor) -> float:
    return token_losses(base.model, windows).mean().item()


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
