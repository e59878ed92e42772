"""Held-out perplexity relative to the base model, read off the artifact's measured curves."""

from __future__ import annotations

import math

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.reader import read_artifact
from acip_core.evaluation.curves import Curve, primary_curves
from acip_core.evaluation.methods import corpus_title
from acip_core.model.base_model import DEFAULT_MODEL
from acip_core.model.quantization import PRECISIONS, at_precision

from .figure import Figure

_TARGETS = {0.9: 1.01, 0.8: 1.15, 0.7: 1.4, 0.6: 1.75, 0.5: 2.3, 0.4: 3.0}
_LOST = {"int8": 1.01, "int4": 1.1}  # times the perplexity of the same size in full precision, at most


def default_curves() -> tuple[Curve, ...]:
    """The curves of the default model's artifact in full precision, its own method's first."""
    curves = read_artifact(default_artifact(DEFAULT_MODEL)).curves
    quantized = {at_precision(curves[0].method, name) for name in PRECISIONS}
    return tuple(curve for curve in curves if curve.method not in quantized)


def quantized_curves(name: str) -> list[tuple[Curve, Curve]]:
    """The default model's curves at a precision, each with the one in full precision on the same text."""
    curves = read_artifact(default_artifact(DEFAULT_MODEL)).curves
    full = {curve.corpus: curve for curve in primary_curves(curves)}
    return [(c, full[c.corpus]) for c in curves if c.method == at_precision(curves[0].method, name)]


def measure_quality() -> list[Figure]:
    """One figure per corpus and size that has a target, and what fewer bits cost at most."""
    curves = default_curves()
    figures = [
        Figure(f"perplexity at {ratio:.0%} ÷ base, {corpus_title(curve.corpus)}", _relative(curve, ratio), "×", target)
        for ratio, target in _TARGETS.items()
        for curve in curves
        if curve.method == curves[0].method
    ]
    for name, most in _LOST.items():
        lost = [
            point.perplexity / (full.at(point.ratio) or math.inf)
            for quantized, full in quantized_curves(name)
            for point in quantized.points
        ]
        if lost:
            figures.append(Figure(f"perplexity at {name} ÷ full precision, the worst size", max(lost), "×", most))
    return figures


def _relative(curve: Curve, ratio: float) -> float:
    point = min(curve.points, key=lambda p: abs(p.ratio - ratio))
    return point.perplexity / curve.base_perplexity
