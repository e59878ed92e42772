"""The generated parts of the README: what was measured, never typed by hand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from acip_core.artifacts.ablation_rows import read_rows
from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.comparison import Comparison, read_comparison
from acip_core.evaluation.curves import Curve
from acip_core.evaluation.methods import corpus_title, curve_title, method_title
from acip_core.model.base_model import DEFAULT_MODEL
from acip_core.model.quantization import PRECISIONS

from .figure import Figure, table
from .quality import default_curves, quantized_curves
from .reliability.outcome import PREFIX, reliability_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"


def refreshed(text: str) -> str:
    """The README's text with its generated parts renewed; each lies between `<!-- name -->` and `<!-- /name -->`."""
    parts = {
        "perplexity": perplexity_table(default_curves()),
        "precision": precision_table(),
        "comparison": comparison_table(read_comparison(default_artifact(DEFAULT_MODEL))),
        "ablation": ablation_table(read_rows(default_artifact(DEFAULT_MODEL))),
        "figures": figures_table(),
        "reliability": reliability_table(_stored()),
    }
    for name, lines in parts.items():
        body = "\n".join([f"<!-- {name} -->", *lines, f"<!-- /{name} -->"])
        text, found = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _: body, text, flags=re.DOTALL)  # noqa: B023
        if found != 1:
            raise ValueError(f"The README must hold exactly one part between <!-- {name} --> and <!-- /{name} -->.")
    return text


def perplexity_table(curves: Sequence[Curve]) -> list[str]:
    """Perplexity ÷ base by size, methods and corpora as columns."""
    header = [f"{curve_title(c.method)}, {corpus_title(c.corpus)}" for c in curves]
    lines = ["| size | " + " | ".join(header) + " |", "|---|" + "---|" * len(curves)]
    for ratio in sorted({round(p.ratio, 2) for c in curves for p in c.points}, reverse=True):
        cells = [_cell(curve, ratio) for curve in curves]
        lines.append(f"| {ratio:.0%} | " + " | ".join(cells) + " |")
    bases = {
        corpus_title(c.corpus): c for c in reversed(curves)
    }  # the artifact's own, which come first, where they differ
    told = ", ".join(f"{name} {c.base_perplexity:.2f} ({c.tokens:,} tokens)" for name, c in bases.items())
    return [*lines, "", f"Base model on the same held-out text: {told}."]


def _cell(curve: Curve, ratio: float) -> str:
    found = next((p for p in curve.points if round(p.ratio, 2) == ratio), None)
    if found is None:
        return ""
    return _relative(found.perplexity / curve.base_perplexity)


def precision_table() -> list[str]:
    """Megabytes and perplexity ÷ base by size, one column a precision and corpus."""
    pairs = {name: quantized_curves(name) for name in PRECISIONS}
    columns = {"full": [own for _, own in pairs["int8"]]} | {n: [q for q, _ in p] for n, p in pairs.items() if p}
    if len(columns) == 1:
        return ["Not measured yet: run `python -m acip_core quantize smollm2-135m-instruct`."]
    lines = ["| size | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for ratio in sorted({round(p.ratio, 2) for p in columns["int8"][0].points}, reverse=True):
        cells = []
        for curves in columns.values():
            size = next((p.bytes for p in curves[0].points if round(p.ratio, 2) == ratio), None)
            told = " / ".join(_cell(curve, ratio) for curve in curves)
            cells.append("" if size is None else f"{size / 1e6:.0f} MB: {told}")
        lines.append(f"| {ratio:.0%} | " + " | ".join(cells) + " |")
    corpora = " / ".join(corpus_title(curve.corpus) for curve in columns["full"])
    return [*lines, "", f"Whole model's weights in megabytes: perplexity ÷ base in full precision, {corpora}."]


def comparison_table(comparison: Comparison | None) -> list[str]:
    """Perplexity ÷ base of the worse corpus by method and size; divergence and agreement, means of the corpora."""
    if comparison is None or not comparison.results:
        return ["Not measured yet: run `python -m acip_core compare`."]
    ratios = sorted({r.wanted for r in comparison.results}, reverse=True)
    lines = ["| method | " + " | ".join(f"{ratio:.0%}" for ratio in ratios) + " |", "|---|" + "---|" * len(ratios)]
    for method, adapters in dict.fromkeys((r.method, r.adapters) for r in comparison.results):
        cells = [_compared(comparison, method, adapters, ratio) for ratio in ratios]
        lines.append(f"| {method_title(method, adapters)} | " + " | ".join(cells) + " |")
    corpora = [corpus_title(corpus) for corpus in comparison.base_perplexity]
    windows, length = comparison.budget["held_out_windows"], comparison.budget["window"]
    told = f"{' and '.join(corpora)}, {windows} × {length} held-out tokens each; the worse corpus counts for perplexity"
    return [
        *lines,
        "",
        f"Perplexity ÷ base · KL divergence from the full model in nats · same likeliest token. {told}.",
    ]


def _compared(comparison: Comparison, method: str, adapters: bool, ratio: float) -> str:
    found = [r for r in comparison.results if (r.method, r.adapters, r.wanted) == (method, adapters, ratio)]
    if len(found) < len(comparison.base_perplexity):
        return ""
    worst = max(r.perplexity / comparison.base_perplexity[r.corpus] for r in found)
    divergence = sum(r.divergence for r in found) / len(found)
    agreement = sum(r.agreement for r in found) / len(found)
    return f"{_relative(worst)} · {divergence:.2f} · {agreement:.0%}"


def _relative(value: float) -> str:
    if not math.isfinite(value):
        return "∞"
    return f"{value:.2f} ×" if value < 100 else f"10^{math.log10(value):.1f} ×"


def ablation_table(rows: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Perplexity ÷ base of the worse corpus, one row an ablation."""
    if not rows:
        return ["Not measured yet: run `python -m acip_core ablate`."]
    ratios = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(f"{float(ratio):.0%}" for ratio in ratios) + " |", "|---|" + "---|" * len(ratios)]
    for name, relative in rows.items():
        cells = [_relative(math.inf if relative[r] is None else float(relative[r] or 0)) for r in ratios]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def figures_table() -> list[str]:
    """What `python -m benchmarks` measured last; the campaigns have a table of their own."""
    if not RESULTS.exists():
        return ["Not measured yet: run `make bench`."]
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    figures = [figure for figure in _stored() if not figure.name.startswith(PREFIX)]
    return [*table(figures), "", f"Measured {stored['date']} on {stored['machine']}."]


def _stored() -> list[Figure]:
    if not RESULTS.exists():
        return []
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    return [Figure(**{k: v for k, v in entry.items() if k != "reached"}) for entry in stored["figures"]]
