"""Scores on the concave envelope of a layer's size."""

from __future__ import annotations

import pytest
import torch

from acip_core.model.rank_costs import break_even_rank
from acip_core.model.size_planner import DENSE, SizePlanner
from acip_core.scoring.envelope import envelope_scores


def test_by_hand() -> None:
    # shape (4, 4): a direction costs 8, the dense layer 16, so rank 2 is dense already.
    # Gains 8, 4, 2, 2: rank 1 saves 8 for 8 parameters (1 each); the dense layer the other 8 for 8 (1 each).
    scores = envelope_scores(torch.tensor([2.0, 8.0, 4.0, 2.0]), (4, 4))
    assert scores[1] == pytest.approx(1.0)
    assert scores.tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0], rel=1e-3)
    # Gains 80, 4, 2, 2: rank 1 is worth 10 per parameter, the rest 1.
    assert envelope_scores(torch.tensor([80.0, 4, 2, 2]), (4, 4)).tolist() == pytest.approx([10, 1, 1, 1], rel=1e-3)
    # Gains 8, 8, 8, 8: all for 16 parameters is the best line from the start: 2 each.
    assert envelope_scores(torch.full((4,), 8.0), (4, 4)).tolist() == pytest.approx([2, 2, 2, 2], rel=1e-3)


@pytest.mark.parametrize("shape", [(32, 32), (56, 32), (16, 96)])
@pytest.mark.parametrize("adapter_rank", [0, 3])
def test_the_order_of_gains_and_the_concave_envelope(shape: tuple[int, int], adapter_rank: int) -> None:
    m, n = shape
    gains = torch.rand(min(shape), generator=torch.Generator().manual_seed(0)) ** 4
    scores = envelope_scores(gains, shape, adapter_rank)
    order = gains.argsort(descending=True)
    assert torch.equal(order, scores.argsort(descending=True, stable=True))
    # The gain at every rank lies on or below the integral of the scores, and both end at the same total.
    last = break_even_rank(m, n, adapter_rank)
    room = m * n - adapter_rank * (m + n)
    steps = torch.full((last,), float(m + n))
    steps[-1] = room - (last - 1) * (m + n)
    integral = (scores[order][:last] * steps).double().cumsum(0)
    gained = gains[order][:last].double().cumsum(0)
    gained[-1] = gains.sum()
    assert (integral >= gained * (1 - 1e-3)).all()
    assert integral[-1].item() == pytest.approx(gains.sum().item(), rel=1e-3)


@pytest.mark.parametrize("pivoted", [False, True])
@pytest.mark.parametrize("shape", [(32, 32), (56, 32), (16, 96)])
@pytest.mark.parametrize("adapter_rank", [0, 3])
def test_scores_are_the_slopes_of_the_upper_hull(shape: tuple[int, int], adapter_rank: int, pivoted: bool) -> None:
    """Against the hull by its definition: from each point to the one with the steepest line, until the dense layer."""
    m, n = shape
    gains = torch.rand(min(shape), generator=torch.Generator().manual_seed(3)) ** 3
    ordered = gains.sort(descending=True).values.double()
    last = break_even_rank(m, n, adapter_rank, pivoted)
    rows = [adapter_rank + k for k in range(last)]
    costs = [k * (m + n - k) if pivoted else k * (m + n) for k in rows]
    points = [(cost, ordered[:k].sum().item()) for k, cost in enumerate(costs)]
    points.append((m * n, ordered.sum().item()))
    expected, at = [], 0
    while at < last:
        slopes = [(points[k][1] - points[at][1]) / (points[k][0] - points[at][0]) for k in range(at + 1, last + 1)]
        best = max(range(len(slopes)), key=lambda i: slopes[i])
        expected += [slopes[best]] * (best + 1)
        at += best + 1
    scores = envelope_scores(gains, shape, adapter_rank, pivoted).sort(descending=True).values
    assert scores[:last].tolist() == pytest.approx(expected, rel=1e-3)


def test_nothing_to_gain_and_nothing_to_factorize() -> None:
    assert (envelope_scores(torch.zeros(8), (8, 8)) == 0).all()
    assert torch.isfinite(envelope_scores(torch.rand(2), (2, 2), adapter_rank=1)).all()  # adapters alone reach dense


def test_at_most_one_layer_is_cut_within_its_last_segment() -> None:
    random = torch.Generator().manual_seed(1)
    shapes = {f"layer {i}": (24, 40) for i in range(12)}
    gains = {name: torch.rand(24, generator=random) ** 2 for name in shapes}
    scores = {name: envelope_scores(gain, shapes[name], 2) for name, gain in gains.items()}
    planner = SizePlanner(shapes, {name: score.numpy() for name, score in scores.items()}, 2)
    starts = []  # first rank of each layer's last segment
    for score in scores.values():
        ordered = score.sort(descending=True).values
        starts.append(int((ordered > ordered[-1] * (1 + 2e-4)).sum()))
    for ratio in torch.linspace(0.25, 1, 40).tolist():
        ranks = planner.at_ratio(ratio).ranks
        inside = [rank > start for rank, start in zip(ranks, starts, strict=True) if rank != DENSE]
        assert sum(inside) <= 1
