"""From the gain of each direction to its score: gain per parameter, on the concave envelope of the layer's size.

A layer's cost stops growing at break-even, where the dense weight returns with all that had been dropped. Directions
just below break-even therefore buy more than themselves: the whole tail, at no further cost. Ranking by gain ÷ cost of
single directions misses that and leaves layers at ranks where they cost nearly as much as dense ones.
"""

from __future__ import annotations

import torch

from ..model.size_planner import break_even_rank

_SPREAD = 1e-4  # relative; keeps the order within a segment of one slope, and segments of different layers apart


def envelope_scores(gains: torch.Tensor, shape: tuple[int, int], adapter_rank: int = 0) -> torch.Tensor:
    """Score the directions of one layer by the slope of the concave envelope of gain over parameters.

    With the directions in descending order of gain, rank k costs `k (m + n)` and gains `G(k) = Σ_{i ≤ k} g_i`; the
    dense layer costs `m n − a (m + n)` and gains everything. The best line through that last point touches the curve
    at some rank k*: directions before it keep `g_i ÷ (m + n)`, all others share the slope of the line.

    Args:
        gains: (r,) non-negative loss each direction saves, in any order.
        shape: (out_features m, in_features n).
        adapter_rank: a, rows that the layer carries besides its directions unless it is dense.

    Returns:
        float32 (r,), in the order of `gains`; sorting by it sorts by gain.
    """
    m, n = shape
    order = gains.argsort(descending=True, stable=True)
    sums = torch.cat([gains.new_zeros(1), gains[order].cumsum(0)]).double()  # G(0) … G(r)
    last = break_even_rank(m, n, adapter_rank)
    costs = (m + n) * torch.arange(last, device=gains.device).double()  # of ranks 0 … last − 1
    slopes = (sums[-1] - sums[:last]) / (m * n - adapter_rank * (m + n) - costs)
    touch = int(slopes.argmin()) if last else 0
    slope = slopes[touch] if last else sums[-1]
    scores = gains[order].double() / (m + n)
    tail = len(gains) - touch
    scores[touch:] = slope * (1 - _SPREAD * torch.arange(tail, device=gains.device) / max(tail, 1))
    result = torch.empty_like(scores)
    result[order] = scores
    return result.float()
