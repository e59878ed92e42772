"""The default score map of a two-sided basis: what dropping a direction costs, as the basis itself predicts it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..model.factorization import Factors
from .envelope import envelope_scores


def predicted_scores(factors: Mapping[str, Factors], shapes: Mapping[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    """Float32 (r,) per layer: σ² in nats per parameter, on the concave envelope of the layer's size.

    Args:
        factors: two-sided, whose singular values are comparable between layers.
        shapes: (out_features m, in_features n) per layer.
    """
    return {name: envelope_scores(f.singular_values.cpu().square(), shapes[name]) for name, f in factors.items()}
