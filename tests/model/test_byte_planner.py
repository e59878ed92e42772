"""Bytes → operating points: hulls, one order, targets by bytes, share and quality."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from acip_core.errors import SizeError
from acip_core.model.byte_planner import BytePlanner
from acip_core.model.operating_points import OperatingPoint, code_of, coded_state, is_coded, lower_hull
from acip_core.model.size_planner import BOTH, DENSE


def points(seed: int) -> tuple[OperatingPoint, ...]:
    draw = random.Random(seed)
    coded = [
        OperatingPoint(400 - 40 * k, 2.0 ** (k - 8) * draw.uniform(0.5, 2), coded_state(k, False)) for k in range(9)
    ]
    return (OperatingPoint(1000, 0.0, DENSE), *coded)


@pytest.fixture
def planner() -> BytePlanner:
    layers = {f"layer{i}": points(i) for i in range(12)}
    return BytePlanner(layers, 2, 400, 12_400, 10_000, 8_000, BOTH, 100, measured=lambda loss: 0.5 * loss)


def test_states_of_codes_are_apart_from_ranks():
    states = [coded_state(level, adapted) for level in range(20) for adapted in (False, True)]
    assert len(set(states)) == 40 and all(map(is_coded, states))
    assert [code_of(state) for state in states[:3]] == [(0, False), (0, True), (1, False)]
    assert not any(is_coded(state) for state in (DENSE, 0, 7))


def test_a_hull_is_convex_and_leaves_out_what_is_beaten():
    hull = lower_hull([*points(3), OperatingPoint(390, 5.0, 99), OperatingPoint(2000, 0.0, 98)])
    assert not {98, 99} & {point.state for point in hull}
    slopes = [(a.loss - b.loss) / (b.bytes - a.bytes) for a, b in itertools.pairwise(hull)]
    assert slopes == sorted(slopes, reverse=True)


def test_more_bytes_never_predict_a_higher_loss(planner):
    plans = [planner.at_bytes(size) for size in range(planner.smallest, planner.largest + 200, 37)]
    assert all(a.loss >= b.loss for a, b in itertools.pairwise(plans))
    assert all(a.bytes <= b.bytes for a, b in itertools.pairwise(plans))
    assert plans[-1].loss == pytest.approx(0) and set(plans[-1].states) == {DENSE}


def test_a_plan_fits_and_says_what_it_holds(planner):
    for size in range(planner.smallest, planner.largest, 113):
        plan = planner.at_bytes(size)
        assert plan.bytes <= size
        chosen = [
            next(point for point in hull if point.state == state)
            for hull, state in zip(planner.hulls.values(), plan.states, strict=True)
        ]
        shared = 100 * any(map(is_coded, plan.states))
        assert plan.bytes == 400 + shared + sum(point.bytes for point in chosen)
        assert plan.loss == pytest.approx(sum(point.loss for point in chosen), abs=1e-9)
        assert len(plan.tables) == 2 and plan.ratio == plan.bytes / 12_400 and plan.mode == BOTH


def test_no_other_plan_of_a_size_is_better(planner):
    draw, hulls = random.Random(0), list(planner.hulls.values())
    for _ in range(300):
        chosen = [draw.choice(hull) for hull in hulls]
        size, loss = 500 + sum(point.bytes for point in chosen), sum(point.loss for point in chosen)
        assert planner.at_bytes(size + 1000).loss <= loss + 1e-9  # a step of the order is smaller than 1000


def test_a_quality_is_the_smallest_plan_that_is_expected_to_have_it(planner):
    plan = planner.at_loss(0.05)
    assert 0.5 * plan.loss <= 0.05
    assert 0.5 * planner.at_bytes(plan.bytes - 1).loss > 0.05
    assert planner.at_loss(0).bytes == planner.largest
    assert planner.at_loss(1e9).bytes == planner.smallest


def test_shares_are_of_the_published_bytes(planner):
    assert planner.at_ratio(0.3) == planner.at_bytes(3720)
    assert planner.at_ratio(1.0).bytes == planner.largest == planner.base_bytes
    assert set(planner.at_ratio(1.0).states) == {DENSE}


def test_what_codes_share_may_cost_more_than_all_as_published():
    layers = {"layer": (OperatingPoint(100, 0.0, DENSE), OperatingPoint(60, 1.0, coded_state(0, False)))}
    planner = BytePlanner(layers, 0, 0, 100, 100, 100, BOTH, code_bytes=50)
    assert planner.smallest == planner.at_loss(5).bytes == 100
    assert planner.at_bytes(105).states == planner.at_bytes(200).states == (DENSE,)
    assert planner.slope_at(planner.at_bytes(200)) == 0


def test_the_slope_is_what_the_next_megabyte_buys(planner):
    plan = planner.at_bytes(planner.smallest)
    assert planner.slope_at(plan) > 0
    assert planner.slope_at(planner.at_ratio(1.0)) == 0


@pytest.mark.parametrize("size", [0, -1, math.nan, "many", None, 600])
def test_sizes_that_no_plan_has(planner, size):
    with pytest.raises(SizeError):
        planner.at_bytes(size)


@pytest.mark.parametrize("ratio", [0, 1.01, math.nan, "half", 1e-9])
def test_shares_that_no_plan_has(planner, ratio):
    with pytest.raises(SizeError):
        planner.at_ratio(ratio)


@pytest.mark.parametrize("rise", [-0.1, math.nan, "little"])
def test_qualities_that_are_no_number(planner, rise):
    with pytest.raises(SizeError, match="nats"):
        planner.at_loss(rise)


def test_points_that_are_not_finite_are_refused():
    broken = {"layer": (OperatingPoint(10, math.nan, DENSE),)}
    with pytest.raises(SizeError, match="layer"):
        BytePlanner(broken, 0, 0, 100, 100, 100, BOTH)
    with pytest.raises(SizeError, match="layer"):
        BytePlanner({"layer": ()}, 0, 0, 100, 100, 100, BOTH)
