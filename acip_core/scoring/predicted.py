"""The default score map of a two-sided basis: what dropping a direction costs, as the basis itself predicts it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..model.factorization import Factors
from ..model.second_moments import Basis
from .envelope import envelope_scores


def predicted_scores(factors: Mapping[str, Factors], shapes: Mapping[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    """Float32 (r,) per layer: σ² in nats per parameter, on the concave envelope of the layer's size.

    Args:
        factors: two-sided, whose singular values are comparable between layers.
        shapes: (out_features m, in_features n) per layer.
    """
    return {name: envelope_scores(f.singular_values.cpu().square(), shapes[name]) for name, f in factors.items()}


def predicted_gains(
    factors: Mapping[str, Factors], weights: Mapping[str, torch.Tensor], inputs: Basis, gradients: Basis
) -> dict[str, torch.Tensor]:
    """Float32 (r,) per layer: what dropping each direction `u dᵀ` costs, `(uᵀ G u) (dᵀ C d)` nats, in any basis.

    Args:
        factors: of these weights (m, n).
        inputs, gradients: moments C and G.
    """
    gains = {}
    for name, found in factors.items():
        weight = weights[name].float()
        up, down = found.up.double(), found.down(weight).double()
        of_up = ((up @ gradients[name].matrix(up.device)) * up).sum(1)
        of_down = ((down @ inputs[name].matrix(up.device)) * down).sum(1)
        gains[name] = (of_up * of_down).float().cpu()
    return gains
