"""What this project's cuts lose against what the best of others do, all trained on the same number of tokens."""

from __future__ import annotations

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.comparison import Comparison, read_comparison, worst_relative
from acip_core.evaluation.methods import METHODS
from acip_core.model.base_model import DEFAULT_MODEL

from .figure import Figure

_OWN = "factors"
_MOST = 0.7


def measure_methods() -> list[Figure]:
    """Read off what `acip measure methods` kept."""
    measured = read_comparison(default_artifact(DEFAULT_MODEL))
    return [] if measured is None else excesses(measured)


def excesses(measured: Comparison) -> list[Figure]:
    """Excess of perplexity ÷ base over 1, the worse corpus', ÷ the smallest of others, with or without adapters."""
    others = [
        worst_relative(measured, name, adapters)
        for name, method in METHODS.items()
        if method.paper
        for adapters in (False, True)
    ]
    figures = []
    for ratio, own in sorted(worst_relative(measured, _OWN, False).items(), reverse=True):
        if best := [other[ratio] - 1 for other in others if ratio in other]:
            name = f"excess of perplexity at {ratio:.0%} ÷ the best other method's, equal tokens"
            figures.append(Figure(name, (own - 1) / min(best), "×", _MOST))
    return figures
