"""Pivoting: a product of two thin matrices as some of its columns and the coefficients of all others.

    U V = A [I T] P        U (m, k), V (k, n), A (m, k) columns of U V, T (k, n − k), P a permutation of columns

holds k² numbers fewer and is the same matrix (pivoting factorization, arXiv 2501.19090). Which columns span the others
is V's affair alone: those that an LU decomposition of Vᵀ with partial pivoting takes first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Pivoted:
    """A matrix of rank k.

    Attributes:
        columns: A (m, k), its pivots in ascending order.
        coefficients: T (k, n − k), of the other columns in ascending order.
        pivots: uint8 (⌈n / 8⌉,), a bit for each column, the first in the lowest bit.
    """

    columns: torch.Tensor
    coefficients: torch.Tensor
    pivots: torch.Tensor


@torch.no_grad()
def pivoted_factors(up: torch.Tensor, down: torch.Tensor) -> Pivoted:
    """The product of `up` (m, k) and `down` (k, n) by pivots, in their dtype; computed in float64."""
    rank, n = down.shape
    rows = down.double()
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(
        torch.finfo(torch.float64).tiny
    )  # the span counts, not length
    _, places = torch.linalg.lu_factor(rows.t())
    order = list(range(n))
    for first, second in enumerate(places.tolist()):  # LAPACK's swaps of rows, counted from 1
        order[first], order[second - 1] = order[second - 1], order[first]
    chosen = torch.zeros(n, dtype=torch.bool, device=down.device)
    chosen[order[:rank]] = True
    pivots, others = chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
    coefficients = torch.linalg.solve(rows[:, pivots], rows[:, others])
    columns = up.double() @ down.double()[:, pivots]
    bits = torch.zeros(-(-n // 8) * 8, dtype=torch.uint8, device=down.device)
    bits[pivots] = 1
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=down.device)
    packed = (bits.view(-1, 8) * weights).sum(1, dtype=torch.uint8)
    return Pivoted(columns.to(up.dtype), coefficients.to(up.dtype), packed)
