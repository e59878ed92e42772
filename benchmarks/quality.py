"""Held-out perplexity relative to the base model, read off the artifact's measured curves."""

from __future__ import annotations

from acip_core.artifact import Curve, default_artifact, read_artifact
from acip_core.base import DEFAULT_MODEL

from .figure import Figure

_TARGETS = {0.9: 1.08, 0.8: 1.3, 0.7: 1.65, 0.6: 2.3, 0.5: 3.4, 0.4: 5.5}
_TITLES = {"c4": "C4", "wikipedia": "Wikipedia"}


def default_curves() -> tuple[Curve, ...]:
    """The curves of the default model's artifact, its own method's first."""
    return read_artifact(default_artifact(DEFAULT_MODEL)).curves


def measure_quality() -> list[Figure]:
    """One figure per corpus and size that has a target."""
    curves = default_curves()
    return [
        Figure(f"perplexity at {ratio:.0%} ÷ base, {_TITLES[curve.corpus]}", _relative(curve, ratio), "×", target)
        for ratio, target in _TARGETS.items()
        for curve in curves
        if curve.method == curves[0].method
    ]


def _relative(curve: Curve, ratio: float) -> float:
    point = min(curve.points, key=lambda p: abs(p.ratio - ratio))
    return point.perplexity / curve.base_perplexity
