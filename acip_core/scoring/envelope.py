"""From the gain of each direction to its score: gain per parameter, on the concave envelope of the layer's size.

A layer's cost stops growing at break-even, where the dense weight returns with all that had been dropped. Directions
just below break-even therefore buy more than themselves: the whole tail, at no further cost. Stored by pivots, each
direction is cheaper than the one before, too. Ranking by gain ÷ cost of single directions misses both and leaves layers
at ranks where they cost nearly as much as larger ones.
"""

from __future__ import annotations

import numpy as np
import torch

from ..model.rank_costs import break_even_rank, factor_parameters

_SPREAD = 1e-4  # relative; keeps the order within a segment of one slope, and segments of different layers apart


def envelope_scores(
    gains: torch.Tensor, shape: tuple[int, int], adapter_rank: int = 0, pivoted: bool = False
) -> torch.Tensor:
    """Score the directions of one layer by the slopes of the concave envelope of gain over parameters.

    With the directions in descending order of gain, rank k costs what `rank_costs` says and gains `Σ_{i ≤ k} g_i`; the
    dense layer costs `m n` and gains everything. Directions between two corners of the envelope share its slope.

    Args:
        gains: (r,) non-negative loss each direction saves, in any order.
        shape: (out_features m, in_features n).
        adapter_rank: a, rows that the layer carries besides its directions unless it is dense.
        pivoted: whether ranks are stored by pivots.

    Returns:
        float32 (r,), in the order of `gains`; sorting by it sorts by gain.
    """
    m, n = shape
    order = gains.argsort(descending=True, stable=True)
    falling = gains[order].double().cpu().numpy()
    last = min(break_even_rank(m, n, adapter_rank, pivoted), len(falling))
    rows = adapter_rank + np.arange(last)
    steps = np.diff(factor_parameters(rows, m + n, pivoted), append=m * n)  # parameters each direction adds
    if last:  # what lies beyond break-even comes with the direction that reaches it
        ends, slopes = _envelope(np.append(falling[: last - 1], falling[last - 1 :].sum()), steps)
    else:
        ends, slopes = [len(falling)], [falling.sum()]
    ends[-1] = len(falling)
    scores = np.empty(len(falling))
    for start, end, slope in zip([0, *ends[:-1]], ends, slopes, strict=True):
        scores[start:end] = slope * (1 - _SPREAD * np.arange(end - start) / max(end - start, 1))
    result = torch.empty(len(falling), dtype=torch.float32, device=gains.device)
    result[order] = torch.from_numpy(np.minimum.accumulate(scores)).to(result)
    return result


def _envelope(gains: np.ndarray, costs: np.ndarray) -> tuple[list[int], list[float]]:
    """Corners of the concave envelope of steps, as the number of steps up to each, and the slope before each."""
    segments: list[tuple[int, float, float]] = []  # end, gain, cost
    for end, (gain, cost) in enumerate(zip(gains.tolist(), costs.tolist(), strict=True), start=1):
        while segments and gain * segments[-1][2] > segments[-1][1] * cost:  # steeper than the segment before
            _, before, paid = segments.pop()
            gain, cost = gain + before, cost + paid
        segments.append((end, gain, cost))
    return [end for end, _, _ in segments], [gain / cost for _, gain, cost in segments]
