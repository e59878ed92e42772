"""Sizes and perplexities at every slider position, computed once, so that the browser follows a drag alone.

Pure arithmetic on plans and measured curves; knows nothing of gradio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..evaluation.curves import Curve, primary_curves
from ..generation.speed import flops_per_token
from ..model.size_planner import SizePlanner
from ..model.tracks import directions_track


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
        agreement: share of tokens with the same likeliest one as the full model's, of the worse corpus, 0 to 1; None
            where it was not measured.
        divergence: KL from the full model, nats per token, likewise.
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
    agreement: float | None = None
    divergence: float | None = None


def size_table(planner: SizePlanner, curves: Sequence[Curve], lookups: int = 0) -> list[Row]:
    """One row for every whole percentage the slider has, smallest first.

    Args:
        lookups: as `flops_per_token`.
    """
    return [_row(percent, planner, curves, lookups) for percent in directions_track(planner).percents]


def _row(percent: float, planner: SizePlanner, curves: Sequence[Curve], lookups: int) -> Row:
    plan, own = planner.at_ratio(percent / 100), primary_curves(curves)
    values = {curve.corpus: curve.at(plan.ratio) for curve in own}
    perplexity = {corpus: value for corpus, value in values.items() if value is not None}
    row = Row(percent, plan.ratio, plan.parameters, plan.bytes, plan.saved, flops_per_token(plan, lookups), perplexity)
    return with_worst(row, [curve.fidelity_at(plan.ratio) for curve in own])


def with_worst(row: Row, fidelity: Sequence[tuple[float, float] | None]) -> Row:
    """A row with the divergence and the agreement of the worse corpus, where all corpora have them."""
    known = [pair for pair in fidelity if pair is not None]
    if not known or len(known) < len(fidelity):
        return row
    return replace(row, divergence=max(pair[0] for pair in known), agreement=min(pair[1] for pair in known))
