"""The generated parts of the README: what was measured, never typed by hand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from acip_core.artifact import Curve

from .figure import Figure, table
from .quality import default_curves

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
_CORPORA = {"c4": "C4", "wikipedia": "Wikipedia"}
_METHODS = {
    "fisher+adapters": "this project",
    "fisher": "without adapters",
    "svd-llm": "uniform rank, whitened",
    "svd-magnitude": "plain singular values",
}


def refreshed(text: str) -> str:
    """The README's text with its generated parts renewed; each lies between `<!-- name -->` and `<!-- /name -->`."""
    parts = {"perplexity": perplexity_table(default_curves()), "figures": figures_table()}
    for name, lines in parts.items():
        body = "\n".join([f"<!-- {name} -->", *lines, f"<!-- /{name} -->"])
        text, found = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: body, text, flags=re.DOTALL)  # noqa: B023
        if found != 1:
            raise ValueError(f"The README must hold exactly one part between <!-- {name} --> and <!-- /{name} -->.")
    return text


def perplexity_table(curves: Sequence[Curve]) -> list[str]:
    """Perplexity ÷ base by size, methods and corpora as columns."""
    header = [f"{_METHODS.get(c.method, c.method)}, {_CORPORA.get(c.corpus, c.corpus)}" for c in curves]
    lines = ["| size | " + " | ".join(header) + " |", "|---|" + "---|" * len(curves)]
    for ratio in sorted({round(p.ratio, 2) for c in curves for p in c.points}, reverse=True):
        cells = [_cell(curve, ratio) for curve in curves]
        lines.append(f"| {ratio:.0%} | " + " | ".join(cells) + " |")
    bases = {_CORPORA.get(c.corpus, c.corpus): c for c in curves}
    told = ", ".join(f"{name} {c.base_perplexity:.2f} ({c.tokens:,} tokens)" for name, c in bases.items())
    return [*lines, "", f"Base model on the same held-out text: {told}."]


def _cell(curve: Curve, ratio: float) -> str:
    found = next((p for p in curve.points if round(p.ratio, 2) == ratio), None)
    if found is None:
        return ""
    relative = found.perplexity / curve.base_perplexity
    return f"{relative:.2f} ×" if relative < 100 else f"10^{math.log10(relative):.1f} ×"


def figures_table() -> list[str]:
    """What `python -m benchmarks` measured last."""
    if not RESULTS.exists():
        return ["Not measured yet: run `make bench`."]
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    figures = [Figure(**{k: v for k, v in entry.items() if k != "reached"}) for entry in stored["figures"]]
    return [*table(figures), "", f"Measured {stored['date']} on {stored['machine']}."]
