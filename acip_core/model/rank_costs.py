"""What a rank costs: the parameters that a layer of shape (m, n) takes when it is cut to k directions.

Two thin matrices hold k (m + n) numbers. They hold more than they have to: k of the product's columns span all others,

    W_k = A [I T] P        A (m, k) columns of W_k, T (k, n − k) coefficients, P a permutation        k (m + n − k)

(pivoting factorization, arXiv 2501.19090), exactly the same matrix. The products need k (m + n) multiplications either
way while a layer's rank is to be changed at any time, so a layer is dense from `PIVOTED_SHARE` of its weight on: above
it, a rank would save little and run slower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

PIVOTED_SHARE = 0.9


@dataclass(frozen=True)
class BytesPerParameter:
    """Bytes per parameter of quantized target layers.

    Attributes:
        dense: of a whole weight.
        leading, rest: of a factor's first `directions` rows (and its adapter's), and of its other rows.
    """

    dense: float
    leading: float
    rest: float
    directions: int


def factor_parameters(rank: Any, sides: Any, pivoted: bool = False) -> Any:
    """Parameters of a layer at a rank, as two thin matrices or as pivots and coefficients.

    Args:
        rank, sides: k and m + n, integers or arrays of them.
    """
    return rank * (sides - rank) if pivoted else rank * sides


def break_even_rank(m: int, n: int, adapter_rank: int = 0, pivoted: bool = False) -> int:
    """The first rank k from which on a layer with an adapter of rank a is dense.

    That is (a + k)(m + n) ≥ m n; pivoted, (a + k)(m + n − a − k) ≥ `PIVOTED_SHARE` m n.
    """
    if not pivoted:
        return max(0, math.ceil(m * n / (m + n)) - adapter_rank)
    root = math.sqrt((m + n) ** 2 - 4 * PIVOTED_SHARE * m * n)
    rank = math.floor((m + n - root) / 2)
    while factor_parameters(rank, m + n, True) < PIVOTED_SHARE * m * n:
        rank += 1
    return max(0, rank - adapter_rank)


def pivot_bytes(n: int) -> int:
    """Bytes that name the pivots among n columns: a bit each."""
    return -(-n // 8)
