"""Sizing against a slow oracle that adds one direction at a time and counts the whole model again."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from acip_core.errors import SizeError
from acip_core.model.rank_costs import PIVOTED_SHARE, break_even_rank
from acip_core.model.size_planner import DENSE, Footprint, Plan, SizePlanner

Shapes = dict[str, tuple[int, int]]


def random_case(seed: int, ties: bool = False, layers: int = 5) -> tuple[Shapes, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shapes = {f"layer{i}": (int(rng.integers(1, 30)), int(rng.integers(1, 30))) for i in range(layers)}
    scores = {}
    for name, shape in shapes.items():
        scores[name] = rng.integers(0, 4, min(shape)) if ties else rng.permutation(10_000)[: min(shape)] + rng.random()
    return shapes, {name: np.asarray(values, dtype=np.float32) for name, values in scores.items()}


def layer_cost(shape: tuple[int, int], rank: int, adapter_rank: int, pivoted: bool = False) -> int:
    """Parameters of one layer at a rank, by the definition: factorized until that reaches the dense weight."""
    (m, n), rows = shape, adapter_rank + rank
    if pivoted:  # rows of coefficients, less those of the pivots, and the pivots; dense from nine tenths on
        stored = m * rows + rows * (n - rows)
        return stored if 10 * stored < 9 * m * n and rows < min(m, n) else m * n
    return min(rows * (m + n), m * n)


def oracle(
    shapes: Shapes, scores: dict[str, np.ndarray], adapter_rank: int, wanted: int, pivoted: bool = False
) -> tuple[list[int], int]:
    """Keep directions in descending order of score until the whole model reaches `wanted`; then dense where it pays."""
    order = sorted(((-score, i) for i, values in enumerate(scores.values()) for score in values))
    ranks = [0] * len(shapes)

    def total() -> int:
        return sum(costs(ranks))

    def costs(ranks: list[int]) -> list[int]:
        return [layer_cost(s, rank, adapter_rank, pivoted) for s, rank in zip(shapes.values(), ranks, strict=True)]

    for _, layer in order:
        if total() >= wanted:
            break
        ranks[layer] += 1
    dense = [cost == m * n for cost, (m, n) in zip(costs(ranks), shapes.values(), strict=True)]
    return [DENSE if d else k for d, k in zip(dense, ranks, strict=True)], total()


def cost_of(plan: Plan, shapes: Shapes, adapter_rank: int) -> int:
    pairs = zip(shapes.values(), plan.ranks, strict=True)
    return sum(m * n if rank == DENSE else layer_cost((m, n), rank, adapter_rank) for (m, n), rank in pairs)


def kept(plan: Plan) -> list[float]:
    return [math.inf if rank == DENSE else rank for rank in plan.ranks]


@pytest.mark.parametrize("pivoted", [False, True])
@pytest.mark.parametrize("adapter_rank", [0, 1, 3])
@pytest.mark.parametrize("seed", range(8))
def test_equals_the_oracle(seed: int, adapter_rank: int, pivoted: bool):
    shapes, scores = random_case(seed)
    planner = SizePlanner(shapes, scores, adapter_rank, pivoted=pivoted)
    for wanted in range(planner.smallest, planner.base_target_parameters + 1, 7):
        plan = planner.at_parameters(wanted)
        ranks, total = oracle(shapes, scores, adapter_rank, wanted, pivoted)
        assert (list(plan.ranks), plan.target_parameters) == (ranks, total)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (32, 32), (192, 576), (1536, 576), (14336, 4096)])
def test_pivots_have_a_break_even_above_that_of_factors(shape: tuple[int, int]):
    (m, n), rank = shape, break_even_rank(*shape, pivoted=True)
    assert break_even_rank(m, n) <= rank <= min(m, n)
    assert rank * (m + n - rank) >= PIVOTED_SHARE * m * n > (rank - 1) * (m + n - rank + 1)


def test_pivots_count_a_bit_for_each_column_of_a_layer_that_is_cut():
    shapes, scores = random_case(0)
    planner = SizePlanner(shapes, scores, footprint=Footprint(100, 2), pivoted=True)
    for ratio in (0.3, 0.6, 0.9, 1.0):
        plan = planner.at_ratio(ratio)
        marks = sum(-(-n // 8) for (_, n), k in zip(shapes.values(), plan.ranks, strict=True) if k != DENSE)
        assert plan.bytes == 2 * (plan.target_parameters + 100) + marks


@pytest.mark.parametrize("adapter_rank", [0, 2])
@pytest.mark.parametrize("seed", range(8))
def test_ties_keep_a_threshold_and_the_count(seed: int, adapter_rank: int):
    """Which of equal directions goes first is free; that every better one is kept and the size is right is not."""
    shapes, scores = random_case(seed, ties=True)
    planner = SizePlanner(shapes, scores, adapter_rank)
    for wanted in range(planner.smallest, planner.base_target_parameters + 1, 11):
        plan = planner.at_parameters(wanted)
        assert plan.target_parameters == cost_of(plan, shapes, adapter_rank)
        cases = list(zip(plan.ranks, shapes.values(), scores.values(), strict=True))
        better = [np.sort(values)[::-1] for values in scores.values()]
        cut = [(r, b) for (r, _, _), b in zip(cases, better, strict=True) if r != DENSE]
        dropped = max((b[r] for r, b in cut if r < len(b)), default=-math.inf)
        lowest_kept = min((b[r - 1] for r, b in cut if r > 0), default=math.inf)
        assert lowest_kept >= dropped


@pytest.mark.parametrize("adapter_rank", [0, 2])
def test_a_smaller_target_never_raises_a_rank(adapter_rank: int):
    for seed in range(6):
        planner = SizePlanner(*random_case(seed, ties=seed % 2 == 0), adapter_rank)
        plans = [planner.at_parameters(p) for p in range(planner.smallest, planner.base_target_parameters + 1)]
        for smaller, larger in pairwise(plans):
            assert all(a <= b for a, b in zip(kept(smaller), kept(larger), strict=True))
            assert smaller.target_parameters <= larger.target_parameters


def test_within_one_direction_of_the_target():
    shapes, scores = random_case(3, layers=12)
    planner = SizePlanner(shapes, scores, adapter_rank=1)
    largest = max(m + n for m, n in shapes.values())
    for ratio in np.linspace(planner.smallest / planner.base_target_parameters + 1e-9, 1, 300):
        over = planner.at_ratio(float(ratio)).target_parameters - ratio * planner.base_target_parameters
        assert -1e-6 <= over < largest + 1


@pytest.mark.parametrize("adapter_rank", [0, 4])
@pytest.mark.parametrize("count_adapters", [True, False])
def test_one_is_the_base_model(adapter_rank: int, count_adapters: bool):
    for seed in range(5):
        shapes, scores = random_case(seed, ties=True)
        plan = SizePlanner(shapes, scores, adapter_rank, Footprint(100), count_adapters).at_ratio(1.0)
        assert set(plan.ranks) == {DENSE} and plan.ratio == 1 and plan.saved == 0
        assert plan.parameters == plan.base_parameters == 100 + sum(m * n for m, n in shapes.values())


def test_targets_in_parameters_and_bytes_of_the_whole_model():
    shapes, scores = random_case(1, layers=20)
    footprint = Footprint(other_parameters=1_000, bytes_per_parameter=2)
    planner = SizePlanner(shapes, scores, footprint=footprint)
    wanted = 1_000 + planner.base_target_parameters // 2
    plan = planner.at_parameters(wanted)
    assert wanted <= plan.parameters < wanted + 60
    assert plan.parameters == plan.target_parameters + 1_000 and plan.bytes == 2 * plan.parameters
    assert plan.saved == pytest.approx(1 - plan.parameters / plan.base_parameters)
    assert planner.at_bytes(2 * wanted) == planner.at_bytes(2 * wanted + 1) == plan
    assert planner.at_ratio(0.5).target_parameters == pytest.approx(plan.target_parameters, abs=60)
    assert planner.at_parameters(plan.base_parameters) == planner.at_ratio(1)


def test_adapters_are_counted_unless_the_papers_convention_is_asked_for():
    shapes, scores = random_case(2, layers=8)
    ours, papers = (SizePlanner(shapes, scores, 2, count_adapters=count) for count in (True, False))
    without = SizePlanner(shapes, scores, 0)
    assert papers.smallest == 0 and ours.smallest == sum(layer_cost(s, 0, 2) for s in shapes.values())
    for ratio in (0.6, 0.8, 0.95):
        assert papers.at_ratio(ratio) == without.at_ratio(ratio)
        plan = ours.at_ratio(ratio)
        assert plan.target_parameters == cost_of(plan, shapes, 2)
        assert sum(kept(plan)) < sum(kept(papers.at_ratio(ratio))) or math.isinf(sum(kept(plan)))


@pytest.mark.parametrize(("m", "n", "a"), [(1, 1, 0), (3, 6, 0), (576, 1536, 16), (192, 576, 16), (5, 7, 9)])
def test_break_even_is_the_first_rank_that_saves_nothing(m: int, n: int, a: int):
    rank = break_even_rank(m, n, a)
    assert (a + rank) * (m + n) >= m * n
    assert rank == 0 or (a + rank - 1) * (m + n) < m * n


@pytest.mark.parametrize("ratio", [0, -0.5, 1.0001, math.nan, math.inf, "0.5", None])
def test_ratios_that_are_none(ratio):
    with pytest.raises(SizeError, match="above 0 and be 1 at most"):
        SizePlanner(*random_case(0)).at_ratio(ratio)


def test_sizes_that_no_cut_has():
    planner = SizePlanner(*random_case(0), adapter_rank=1, footprint=Footprint(500, 4))
    low, high = 500 + planner.smallest, 500 + planner.base_target_parameters
    for call in (
        lambda: planner.at_parameters(low - 1),
        lambda: planner.at_parameters(high + 1),
        lambda: planner.at_bytes(4 * (high + 1)),
        lambda: planner.at_ratio(1e-9),
    ):
        with pytest.raises(SizeError, match=f"{low:,} to {high:,}"):
            call()


@pytest.mark.parametrize("size", [math.nan, math.inf, "1000", None])
def test_sizes_that_are_no_numbers(size):
    planner = SizePlanner(*random_case(0))
    for call in (planner.at_parameters, planner.at_bytes):
        with pytest.raises(SizeError, match="must be a number"):
            call(size)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite(value: float):
    shapes, scores = random_case(0)
    scores["layer2"][0] = value
    with pytest.raises(SizeError, match="not finite"):
        SizePlanner(shapes, scores)


def test_scores_that_do_not_fit_the_shapes():
    shapes, scores = random_case(0)
    with pytest.raises(SizeError, match="different layers"):
        SizePlanner(shapes, {name: scores[name] for name in reversed(scores)})
    with pytest.raises(SizeError, match="fewer scores"):
        SizePlanner({"a": (10, 10)}, {"a": np.ones(4)})


def test_a_million_directions():
    rng = np.random.default_rng(0)
    shapes = {f"layer{i}": (4096, 4096 + 64 * (i % 3)) for i in range(250)}
    scores = {name: rng.random(4096, dtype=np.float32) for name in shapes}
    planner = SizePlanner(shapes, scores, adapter_rank=16)
    for ratio in (0.05, 0.31234, 0.7, 0.999):
        plan = planner.at_ratio(ratio)
        assert 0 <= plan.target_parameters - ratio * planner.base_target_parameters <= 2 * 4096 + 128
        assert plan.target_parameters == cost_of(plan, shapes, 16)


@pytest.mark.parametrize("adapter_rank", [0, 2])
def test_without_reset_no_layer_is_dense_and_every_direction_costs_the_same(adapter_rank: int):
    shapes, scores = random_case(3)
    planner = SizePlanner(shapes, scores, adapter_rank, reset=False)
    for wanted in range(planner.smallest, planner.base_target_parameters + 1, 11):
        plan = planner.at_parameters(wanted)
        cost = sum((adapter_rank + k) * (m + n) for k, (m, n) in zip(plan.ranks, shapes.values(), strict=True))
        assert DENSE not in plan.ranks and plan.target_parameters == cost
        assert 0 <= cost - wanted < max(m + n for m, n in shapes.values())
