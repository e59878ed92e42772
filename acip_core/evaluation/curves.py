"""Perplexity against size: the curve of one method on one corpus, and how it is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ..errors import ModelError
from ..model.elastic_model import ElasticModel
from ..model.size_planner import Plan
from ..progress import Progress, Steps
from .perplexity import exp, measure_perplexity, standard_error


@dataclass(frozen=True)
class CurvePoint:
    """Perplexity at one size: `ratio` counts adapters, `parameters` and `bytes` are the whole model's.

    Attributes:
        divergence: KL from the full model, nats per token; None where it was not measured.
        agreement: share of tokens with the same likeliest one as the full model's, 0 to 1; None likewise.
        error: standard error, over windows of text, of the logarithm of the perplexity as a multiple of the full
            model's; None likewise.
    """

    ratio: float
    parameters: int
    bytes: int
    perplexity: float
    divergence: float | None = None
    agreement: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Curve:
    """Perplexity against size of one method on one corpus.

    Attributes:
        tokens: predicted tokens measured per point.
        base_perplexity: of the base model on the same text.
    """

    method: str
    corpus: str
    split: str
    tokens: int
    base_perplexity: float
    points: tuple[CurvePoint, ...]

    def at(self, ratio: float) -> float | None:
        """Perplexity at a size ratio, linear in its logarithm between measured points; None outside them.

        A measured point counts as reached within half a thousandth, for cuts hit their targets within one direction.
        """
        found = self._around(ratio)
        if found is None:
            return None
        low, high, share = found
        return math.exp((1 - share) * math.log(low.perplexity) + share * math.log(high.perplexity))

    def fidelity_at(self, ratio: float) -> tuple[float, float] | None:
        """Divergence and agreement at a size ratio, linear between measured points; None where they are not known."""
        found = self._around(ratio)
        if found is None:
            return None
        low, high, share = found
        pairs = (low.divergence, high.divergence), (low.agreement, high.agreement)
        mixed = [(1 - share) * a + share * b for a, b in pairs if a is not None and b is not None]
        return (mixed[0], mixed[1]) if len(mixed) == len(pairs) else None

    def _around(self, ratio: float) -> tuple[CurvePoint, CurvePoint, float] | None:
        """The points below and above a ratio, and how far it is from the one to the other."""
        points = sorted(self.points, key=lambda point: point.ratio)
        for point in points:
            if abs(point.ratio - ratio) < 5e-4:
                return point, point, 0.0
        for low, high in pairwise(points):
            if low.ratio <= ratio <= high.ratio:
                return low, high, (ratio - low.ratio) / (high.ratio - low.ratio)
        return None


def primary_curves(curves: Sequence[Curve]) -> list[Curve]:
    """The curves of the artifact's method, one per corpus: those whose method is that of the first curve."""
    return [curve for curve in curves if curve.method == curves[0].method]


def measure_curve(
    elastic: ElasticModel,
    windows: torch.Tensor,
    ratios: Sequence[float],
    label: tuple[str, str, str],
    known: dict[float, tuple[float, ...]] | None = None,
    on_point: Callable[[], object] = lambda: None,
) -> Steps[Curve]:
    """Perplexity at several sizes on the same text, 100 % always among them.

    Args:
        windows: (windows, length) held-out token ids.
        ratios: size ratios, adapters counted.
        label: method, corpus and split, for the curve.
        known: nats of each window at sizes measured before, by requested ratio; new ones are added to it.
        on_point: called after every new point.

    Returns:
        The curve; sizes at which the perplexity is beyond all numbers are left out.

    Raises:
        ModelError: the base model's own perplexity is not finite.
    """
    method, corpus, split = label
    known = {} if known is None else known
    wanted = sorted({1.0, *ratios}, reverse=True)
    for index, ratio in enumerate(wanted):
        if ratio in known:
            continue
        with elastic.at(elastic.planner.at_ratio(ratio)):
            for step in measure_perplexity(elastic.model, windows):
                done = index * len(windows) + step.done
                note = f"{ratio:.0%}: {step.value:.2f}"
                yield Progress(f"measuring {method}, {corpus}", done, len(wanted) * len(windows), note)
        known[ratio] = step.losses
        on_point()
    points = [_point(elastic.planner.at_ratio(ratio), known[ratio], known[1.0], windows) for ratio in wanted]
    if not math.isfinite(points[0].perplexity):
        raise ModelError(f"The base model's perplexity on {corpus} is not finite; the model is damaged.")
    finite = tuple(point for point in points if math.isfinite(point.perplexity))
    return Curve(method, corpus, split, _predicted_tokens(windows), points[0].perplexity, finite)


def _point(plan: Plan, losses: Sequence[float], base: Sequence[float], windows: torch.Tensor) -> CurvePoint:
    """A size's point by the nats of its windows and those of the full model."""
    perplexity = exp(math.fsum(losses) / _predicted_tokens(windows))
    rises = [(loss - full) / (windows.shape[1] - 1) for loss, full in zip(losses, base, strict=True)]
    error = standard_error(rises) if math.isfinite(perplexity) else None
    return CurvePoint(plan.ratio, plan.parameters, plan.bytes, perplexity, error=error)


def _predicted_tokens(windows: torch.Tensor) -> int:
    """Of every window all but the first."""
    return windows.shape[0] * (windows.shape[1] - 1)
