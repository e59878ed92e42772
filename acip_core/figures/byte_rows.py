"""What is known beforehand of every slider position where bits are spent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from ..artifacts.coding import CodedCurve, CodedPoint
from ..generation.speed import flops_per_token
from ..model.byte_planner import BytePlanner
from ..model.tracks import Track
from .size_table import Row, with_worst


def relative_at(curve: CodedCurve, size: int, exact: int) -> float | None:
    """Perplexity ÷ base between the measured points, on straight lines of the logarithms; None below the smallest.

    Args:
        exact: bytes from which on nothing is lost.
    """
    if size >= exact:
        return 1.0
    found = _around(curve, size, exact)
    if found is None:
        return None
    low, high, share = found
    a, b = (math.log(p.perplexity / curve.base_perplexity) if p is not None else 0.0 for p in (low, high))
    return math.exp(a + (b - a) * share)


def fidelity_at(curve: CodedCurve, size: int, exact: int) -> tuple[float, float] | None:
    """Divergence and agreement between the measured points, linear in the logarithm of the size; None below them.

    Args:
        exact: bytes from which on nothing is lost.
    """
    if size >= exact:
        return 0.0, 1.0
    found = _around(curve, size, exact)
    if found is None:
        return None
    low, high, share = found
    ends = [(p.divergence, p.agreement) if p is not None else (0.0, 1.0) for p in (low, high)]
    return ends[0][0] + (ends[1][0] - ends[0][0]) * share, ends[0][1] + (ends[1][1] - ends[0][1]) * share


def _around(curve: CodedCurve, size: int, exact: int) -> tuple[CodedPoint, CodedPoint | None, float] | None:
    """The measured points below and above a size, None for the exact one, and its place between their logarithms."""
    points = sorted((p for p in curve.points if p.bytes < exact), key=lambda p: p.bytes)
    for low, high in itertools.pairwise([*points, None]):
        above = exact if high is None else high.bytes
        if low is not None and low.bytes <= size <= above:
            return low, high, math.log(size / low.bytes) / math.log(above / low.bytes)
    return None


def byte_rows(track: Track, curves: Sequence[CodedCurve], bases: dict[str, float], lookups: int = 0) -> list[Row]:
    """One row for every position, the smallest first.

    Args:
        curves: of all modes.
        bases: perplexity of the full model by corpus.
        lookups: as `flops_per_token`.
    """
    planner = track.planner
    assert isinstance(planner, BytePlanner)
    own = [curve for curve in curves if curve.mode == track.mode and curve.points]
    rows = []
    for percent in track.percents:
        plan = track.plan_at(percent)[1]
        found = {curve.corpus: relative_at(curve, plan.bytes, planner.largest) for curve in own}
        measured = {corpus: value for corpus, value in found.items() if value is not None}
        predicted = math.exp(min(planner.measured(plan.loss or 0.0), 50.0))
        relative = max(measured.values(), default=predicted)
        perplexity = {corpus: base * measured.get(corpus, predicted) for corpus, base in bases.items()}
        row = Row(
            percent, plan.ratio, plan.parameters, plan.bytes, plan.saved, flops_per_token(plan, lookups), perplexity
        )
        bought = 1 - math.exp(-max(0.0, planner.slope_at(plan)))
        row = replace(row, relative=relative, predicted=not measured, next_megabyte=bought)
        rows.append(with_worst(row, [fidelity_at(curve, plan.bytes, planner.largest) for curve in own]))
    return rows
