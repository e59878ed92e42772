"""Sizes and perplexities at every slider position, computed once, so that the browser follows a drag alone.

Pure arithmetic on plans and measured curves; knows nothing of gradio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..evaluation.curves import Curve, primary_curves
from ..generation.speed import flops_per_token
from ..model.size_planner import Plan, SizePlanner

SMALLEST_PERCENT, LARGEST_PERCENT = 30, 100


@dataclass(frozen=True)
class Row:
    """One slider position.

    Attributes:
        percent: position, the target size ratio in percent.
        ratio: size ratio of the plan found there.
        parameters, bytes: of the whole model.
        saved: share of the whole model's bytes, 0 to 1.
        flops: floating-point operations per token.
        perplexity: by corpus, interpolated on the measured curve; corpora that were not measured there are absent.
        relative: perplexity ÷ the full model's, of the worse corpus, where bits are spent; None elsewhere.
        predicted: `relative` is no measurement.
        next_megabyte: by what share the next megabyte lowers the perplexity, as predicted, where bits are spent.
    """

    percent: float
    ratio: float
    parameters: int
    bytes: int
    saved: float
    flops: int
    perplexity: dict[str, float]
    relative: float | None = None
    predicted: bool = False
    next_megabyte: float | None = None


def smallest_percent(planner: SizePlanner) -> int:
    """The slider's lower end: 30, or the smallest whole percentage that the adapters leave room for."""
    return max(SMALLEST_PERCENT, math.ceil(100 * planner.smallest / planner.base_target_parameters))


def size_table(planner: SizePlanner, curves: Sequence[Curve], lookups: int = 0) -> list[Row]:
    """One row for every whole percentage the slider has, smallest first.

    Args:
        lookups: as `flops_per_token`.
    """
    return [
        _row(percent, planner, curves, lookups) for percent in range(smallest_percent(planner), LARGEST_PERCENT + 1)
    ]


def plan_at(planner: SizePlanner, percent: float | None) -> tuple[int, Plan]:
    """The plan of a slider position; anything outside the slider's range means its nearest end.

    Returns:
        The whole percentage used, and its plan.
    """
    wanted = LARGEST_PERCENT if percent is None or not math.isfinite(percent) else round(percent)
    used = min(max(wanted, smallest_percent(planner)), LARGEST_PERCENT)
    return used, planner.at_ratio(used / 100)


def _row(percent: int, planner: SizePlanner, curves: Sequence[Curve], lookups: int) -> Row:
    plan = planner.at_ratio(percent / 100)
    values = {curve.corpus: curve.at(plan.ratio) for curve in primary_curves(curves)}
    perplexity = {corpus: value for corpus, value in values.items() if value is not None}
    flops = flops_per_token(plan, lookups)
    return Row(percent, plan.ratio, plan.parameters, plan.bytes, plan.saved, flops, perplexity)
