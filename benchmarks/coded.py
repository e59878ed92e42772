"""Sizes in bytes of the default model, read off what its artifact holds measured."""

from __future__ import annotations

import math

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.coding import CodedCurve, CodedPoint, read_coding
from acip_core.artifacts.knowledge import read_knowledge
from acip_core.artifacts.reader import read_artifact
from acip_core.evaluation.methods import corpus_title
from acip_core.model.base_model import DEFAULT_MODEL
from acip_core.model.elastic_model import Calibration

from .figure import Figure, markdown_table

# Of a whole model of so many MB ÷ base, at most.
_PERPLEXITY = {98: 1.0, 84: 1.04, 77: 1.14, 70: 1.4, 63: 1.9, 57: 2.6, 50: 4.0}
_FACTS = {84: 0.95, 77: 0.85, 70: 0.65}  # share of the facts kept, at least
_AGREEMENT = {77: 0.8}
_CAPITAL = "The capital of Germany is called", 63  # is still answered at so many MB


def coded_curves(mode: str) -> list[CodedCurve]:
    """The measured curves of a mode, one for each corpus; none where nothing was measured."""
    coding = _coding()
    return [curve for curve in coding[1] if curve.mode == mode] if coding else []


def bytes_table() -> list[str]:
    """The README's table: bytes, perplexity ÷ base on each corpus, closeness to the full model, facts kept."""
    curves = coded_curves("both")
    titles = [corpus_title(curve.corpus) for curve in curves]
    header = ["weights", "share", *titles, "KL", "same likeliest token", "facts kept"]
    rows = []
    for points in zip(*(curve.points for curve in curves), strict=True):
        first = points[0]
        rows.append(
            [
                f"{first.bytes / 1e6:.1f} MB", f"{first.ratio:.0%}",
                *(f"{p.perplexity / c.base_perplexity:.2f} ×" for p, c in zip(points, curves, strict=True)),
                f"{max(0.0, *(p.divergence for p in points)):.3f}", f"{min(p.agreement for p in points):.0%}",
                "" if first.facts is None else f"{first.facts:.0%}",
            ]
        )  # fmt: skip
    return markdown_table(header, rows)


def measure_coded() -> list[Figure]:
    """Perplexity, facts and agreement at the sizes that have a target, and how far off predictions are."""
    figures = []
    for curve in coded_curves("both"):
        name = corpus_title(curve.corpus)
        for megabytes, target in _PERPLEXITY.items():
            if point := _within(curve, megabytes):
                value = point.perplexity / curve.base_perplexity
                figures.append(Figure(f"perplexity at {megabytes} MB ÷ base, {name}", value, "×", target))
        for megabytes, target in _AGREEMENT.items():
            if point := _within(curve, megabytes):
                title = f"same likeliest token at {megabytes} MB, {name}"
                figures.append(Figure(title, point.agreement, "", target, better="higher"))
    first = next(iter(coded_curves("both")), None)
    for megabytes, target in _FACTS.items():
        if first and (point := _within(first, megabytes)) and point.facts is not None:
            figures.append(Figure(f"facts kept at {megabytes} MB", point.facts, "", target, better="higher"))
    if (known := read_knowledge(default_artifact(DEFAULT_MODEL))) is not None:
        prompt, target = _CAPITAL
        known_at = known.modes["both"].rank[:, [fact.prompt for fact in known.facts].index(prompt)] == 1
        smallest = known.modes["both"].bytes[known_at.long().cumprod(0).bool()][-1].item() / 1e6
        figures.append(Figure(f'"{prompt}": the size from which on all say Berlin', smallest, "MB", target))
    off = [error for mode in ("bits", "both") for error in _errors(mode)]
    if off:
        figures.append(Figure("predicted ÷ measured perplexity, the worst size", max(off), "×", 1.1))
    return figures


def _errors(mode: str) -> list[float]:
    """By which factor the predicted perplexity is off, the mean of the corpora, at each measured size."""
    coding = _coding()
    curves = coded_curves(mode)
    errors = []
    for points in zip(*(curve.points for curve in curves), strict=True):
        rises = [math.log(p.perplexity / c.base_perplexity) for p, c in zip(points, curves, strict=True)]
        assert coding is not None
        errors.append(math.exp(abs(coding[0](points[0].predicted) - sum(rises) / len(rises))))
    return errors


def _within(curve: CodedCurve, megabytes: int) -> CodedPoint | None:
    """The largest measured size that is at most so large, if it is within a sixth."""
    fitting = [p for p in curve.points if p.bytes <= megabytes * 1e6]
    return max(fitting, key=lambda p: p.bytes) if fitting and fitting[0].bytes > megabytes * 0.83e6 else None


def _coding() -> tuple[Calibration, tuple[CodedCurve, ...]] | None:
    folder = default_artifact(DEFAULT_MODEL)
    artifact = read_artifact(folder)
    coding = read_coding(folder, artifact.basis, artifact.gradients)
    return (coding.calibration, coding.curves) if coding is not None else None
