"""Adapters beside codes in closed form: the leading directions of what the codes are off by.

With an adapter B A of rank r beside the codes Ŵ of a weight W, a layer loses

    ΔL ≈ ‖Kᵀ (W − Ŵ − B A) L‖²,   C = L Lᵀ, G = K Kᵀ

so the best one is the truncated singular value decomposition of Kᵀ (W − Ŵ) L (Eckart and Young). Training starts there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from ..progress import Progress, Steps
from .codes import Codes
from .coding_moments import CodingMoments
from .second_moments import SecondMoment


@torch.no_grad()
def residual_adapters(
    weights: Mapping[str, torch.Tensor], codes: Mapping[str, Codes], moments: CodingMoments, rank: int
) -> Steps[dict[str, torch.Tensor]]:
    """One adapter for each layer: its a (rank, n) and b (m, rank) as `name.a` and `name.b`.

    Args:
        weights: of the layers, (m, n) by name.
        codes: of each, at the level that is repaired.
        rank: of the adapters; those of narrower layers end in rows and columns of zeros.
    """
    adapters = {}
    for name, weight in weights.items():
        off = weight.cpu().double() - codes[name].matrix().cpu().double()
        inputs, gradients = (_factor(of[name]) for of in (moments.inputs, moments.gradients))
        left, right = _leading(gradients.T @ off @ inputs, rank)
        a = torch.linalg.solve_triangular(inputs, right, upper=False, left=False)
        b = torch.linalg.solve_triangular(gradients.T, left, upper=True)
        spare = rank - len(a)
        adapters[f"{name}.a"] = F.pad(a, (0, 0, 0, spare)).to(weight)
        adapters[f"{name}.b"] = F.pad(b, (0, spare)).to(weight)
        yield Progress("starting adapters", len(adapters) // 2, len(weights))
    return adapters


def _leading(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(m, r) and (r, n) of equal norms, whose product is the best of rank r; r is at most what the matrix has."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    _, directions = torch.linalg.eigh(wide @ wide.T)  # of the short side: a tenth of the time of a decomposition
    left = directions.flip(1)[:, :rank]
    right = left.T @ wide
    half = right.norm(dim=1).clamp_min(1e-30).sqrt()
    left, right = left * half, right / half[:, None]
    return (left, right) if wide is matrix else (right.T, left.T)


def _factor(moment: SecondMoment) -> torch.Tensor:
    """The lower triangle whose product with its transpose is a moment, (channels, channels) in double precision."""
    return torch.linalg.cholesky(moment.matrix(torch.device("cpu")))
