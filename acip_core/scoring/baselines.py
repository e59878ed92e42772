"""Score maps of other methods, for comparison: plain singular values, uniform ranks, accumulated gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..model.factorization import Factors
from ..progress import Steps
from .fisher import accumulated


def svd_magnitude_scores(factors: Mapping[str, Factors]) -> dict[str, torch.Tensor]:
    """The singular values themselves, ranked over the whole model (the paper's SVD-Magn., on a plain SVD basis)."""
    return {name: f.singular_values.float().cpu() for name, f in factors.items()}


def uniform_scores(factors: Mapping[str, Factors], shapes: Mapping[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    """Every layer at the same size ratio, directions in order of singular value (SVD-LLM on a whitened basis).

    Args:
        shapes: (out_features m, in_features n) per layer.

    Returns:
        (r,) per layer: one minus the layer's own size ratio before its k-th direction, `1 − k (m + n) / (m n)`.
    """
    return {
        name: 1 - torch.arange(len(f.directions)).float() * sum(shapes[name]) / (shapes[name][0] * shapes[name][1])
        for name, f in factors.items()
    }


def gradient_scores(
    model: nn.Module, factors: Mapping[str, Factors], windows: torch.Tensor
) -> Steps[dict[str, torch.Tensor]]:
    """Accumulated mask gradients `Σ_windows |∂NLL/∂mask_i|` at the full model (ACIP, section D.6).

    Args:
        windows: (windows, length) token ids.

    Returns:
        float32 (r,) per layer, not divided by what a direction costs.

    Raises:
        ModelError: the loss of a window is not finite.
    """
    return (yield from accumulated(_absolute, model, factors, windows))


def _absolute(contributions: torch.Tensor) -> torch.Tensor:
    return contributions.sum(0, dtype=torch.float32).abs()
