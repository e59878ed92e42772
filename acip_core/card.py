"""The model card of an artifact: what it is, how it was made, what was measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .base import DEFAULT_HUB_ID, DEFAULT_MODEL

if TYPE_CHECKING:
    from .artifact import Artifact, Curve


def hub_name(artifact: Artifact) -> str:
    """Where other tools find the base model: the embedded default is known to the Hub under another name."""
    return DEFAULT_HUB_ID if artifact.name == DEFAULT_MODEL else artifact.source


def model_card(artifact: Artifact) -> str:
    """README.md of the artifact: what it is, how it was made, what was measured."""
    lines = [
        "---",
        *([f"base_model: {hub_name(artifact)}"] if hub_name(artifact).count("/") == 1 else []),
        "tags: [acip, compression, low-rank]",
        "---",
        f"# Score map of {artifact.name}",
        "",
        "Orders the singular directions of every linear layer by importance, so that the model can be cut to any size",
        "without retraining. It holds no weights of the base model, whose licence applies to models cut with it.",
        "",
        *curve_table(artifact.curves),
        "",
        "Recipe: `" + json.dumps(artifact.recipe) + "`",
    ]
    return "\n".join(lines) + "\n"


def curve_table(curves: tuple[Curve, ...]) -> list[str]:
    """A Markdown table, one row a size, one column a curve: perplexity (and its ratio to the base model's)."""
    if not curves:
        return []
    header = [f"{curve.method}, {curve.corpus}" for curve in curves]
    ratios = sorted({round(point.ratio, 2) for curve in curves for point in curve.points}, reverse=True)
    lines = ["| size | " + " | ".join(header) + " |", "|---|" + "---|" * len(header)]
    for ratio in ratios:
        cells = []
        for curve in curves:
            point = next((p for p in curve.points if round(p.ratio, 2) == ratio), None)
            cells.append(
                "" if point is None else f"{point.perplexity:.4g} ({point.perplexity / curve.base_perplexity:.3g} ×)"
            )
        lines.append(f"| {ratio:.0%} | " + " | ".join(cells) + " |")
    return lines
