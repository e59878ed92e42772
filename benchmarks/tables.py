"""The tables of the documents, as Markdown: what was measured, read from the default artifact and from results.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from acip_core.artifacts.ablation_rows import PARTS_FILE, read_rows
from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.comparison import Comparison, read_comparison
from acip_core.artifacts.knowledge import read_knowledge
from acip_core.artifacts.reader import read_artifact
from acip_core.evaluation.curves import Curve, primary_curves
from acip_core.evaluation.facts import FACTS
from acip_core.evaluation.methods import corpus_title, curve_title, method_title
from acip_core.model.base_model import DEFAULT_MODEL
from acip_core.model.quantization import PRECISIONS
from acip_core.model.size_planner import DIRECTIONS

from .figure import markdown_table, read, table, where_and_when
from .quality import default_curves, quantized_curves
from .reliability.outcome import PREFIX, reliability_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
_SUMMARY = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


def summary() -> list[str]:
    """Of the README: megabytes, perplexity ÷ base and facts kept by size, beside the usual truncation of an SVD."""
    curves = read_artifact(default_artifact(DEFAULT_MODEL)).curves
    shown = [*primary_curves(curves), *(curve for curve in curves if curve.method == "svd-llm")]
    four_bit = [quantized for quantized, _ in quantized_curves("int4")]
    own = len(primary_curves(curves))
    titles = [corpus_title(curve.corpus) for curve in shown[:own]]
    titles += [f"{curve_title(curve.method)}, {corpus_title(curve.corpus)}" for curve in shown[own:]]
    header = ["size", "weights", *titles[:own], "facts kept", *titles[own:], *(["weights at int4"] if four_bit else [])]
    kept = _facts_kept()
    rows = [
        [
            f"{ratio:.0%}",
            _megabytes(shown[0], ratio),
            *(_relative_at(curve, ratio) for curve in shown[:own]),
            _kept_at(kept, shown[0], ratio),
            *(_relative_at(curve, ratio) for curve in shown[own:]),
            *(_megabytes(curve, ratio) for curve in four_bit[:1]),
        ]
        for ratio in _SUMMARY
    ]
    return markdown_table(header, rows)


def perplexity() -> list[str]:
    """Perplexity ÷ base by size, methods and corpora as columns, and the facts that the first method keeps."""
    curves, kept = default_curves(), _facts_kept()
    header = [f"{curve_title(c.method)}, {corpus_title(c.corpus)}" for c in curves]
    ratios = sorted({round(p.ratio, 2) for c in curves for p in c.points}, reverse=True)
    rows = [
        [f"{ratio:.0%}", *(_relative_at(curve, ratio) for curve in curves), _kept_at(kept, curves[0], ratio)]
        for ratio in ratios
    ]
    # The artifact's own curves come first; where the base was measured twice, theirs counts.
    bases = {corpus_title(c.corpus): c for c in reversed(curves)}
    measured = ", ".join(f"{name} {c.base_perplexity:.2f} ({c.tokens:,} tokens)" for name, c in bases.items())
    header = ["size", *header, f"{curve_title(curves[0].method)}, facts kept"]
    return [*markdown_table(header, rows), "", f"Base model on the same held-out text: {measured}."]


def precision() -> list[str]:
    """Megabytes and perplexity ÷ base by size, one column a precision."""
    pairs = {name: quantized_curves(name) for name in PRECISIONS}
    columns = {"full": [full for _, full in pairs["int8"]]} | {n: [q for q, _ in p] for n, p in pairs.items() if p}
    if len(columns) == 1:
        return ["Not measured yet: run `acip measure precision smollm2-135m-instruct`."]
    rows = []
    for ratio in sorted({round(p.ratio, 2) for p in columns["int8"][0].points}, reverse=True):
        sizes = [_megabytes(curves[0], ratio) for curves in columns.values()]
        values = [" / ".join(_relative_at(curve, ratio) for curve in curves) for curves in columns.values()]
        cells = [f"{size}: {value}" if size else "" for size, value in zip(sizes, values, strict=True)]
        rows.append([f"{ratio:.0%}", *cells])
    corpora = " / ".join(corpus_title(curve.corpus) for curve in columns["full"])
    note = f"Whole model's weights in megabytes: perplexity ÷ base in full precision, {corpora}."
    return [*markdown_table(["size", *columns], rows), "", note]


def comparison() -> list[str]:
    """What `acip measure methods` measured of the default model."""
    return comparison_table(read_comparison(default_artifact(DEFAULT_MODEL)))


def comparison_table(measured: Comparison | None) -> list[str]:
    """Perplexity ÷ base of the worse corpus by method and size; divergence and agreement, means of the corpora."""
    if measured is None or not measured.results:
        return ["Not measured yet: run `acip measure methods smollm2-135m-instruct`."]
    ratios = sorted({r.wanted for r in measured.results}, reverse=True)
    rows = [
        [method_title(method, adapters), *(_compared(measured, method, adapters, ratio) for ratio in ratios)]
        for method, adapters in dict.fromkeys((r.method, r.adapters) for r in measured.results)
    ]
    corpora = " and ".join(corpus_title(corpus) for corpus in measured.base_perplexity)
    windows, length = measured.budget["held_out_windows"], measured.budget["window"]
    return [
        *markdown_table(["method", *(f"{ratio:.0%}" for ratio in ratios)], rows),
        "",
        "Perplexity ÷ base · KL divergence from the full model in nats · same likeliest token. "
        f"{corpora}, {windows} × {length} held-out tokens each; the worse corpus counts for perplexity.",
    ]


def ablation() -> list[str]:
    """What `acip measure ablations` measured of the default model: the paper's questions."""
    return ablation_table(read_rows(default_artifact(DEFAULT_MODEL)))


def parts() -> list[str]:
    """What it measured of this project's own parts."""
    return ablation_table(read_rows(default_artifact(DEFAULT_MODEL), PARTS_FILE))


def ablation_table(measured: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Perplexity ÷ base of the worse corpus, one row an ablation."""
    if not measured:
        return ["Not measured yet: run `acip measure ablations smollm2-135m-instruct`."]
    ratios = list(next(iter(measured.values())))
    rows = [
        [name, *(_relative(math.inf if by_size[r] is None else float(by_size[r] or 0)) for r in ratios)]
        for name, by_size in measured.items()
    ]
    return markdown_table(["", *(f"{float(ratio):.0%}" for ratio in ratios)], rows)


def figures() -> list[str]:
    """What `python -m benchmarks` measured last; the campaigns have a table of their own."""
    if not RESULTS.exists():
        return ["Not measured yet: run `make bench`."]
    shown = [measured for measured in read(RESULTS) if not measured.figure.name.startswith(PREFIX)]
    return [*table([measured.figure for measured in shown]), "", where_and_when(shown)]


def reliability() -> list[str]:
    """What the campaigns counted last."""
    return reliability_table([measured.figure for measured in read(RESULTS)])


def _compared(measured: Comparison, method: str, adapters: bool, ratio: float) -> str:
    results = [r for r in measured.results if (r.method, r.adapters, r.wanted) == (method, adapters, ratio)]
    if len(results) < len(measured.base_perplexity):
        return ""
    worst = max(r.perplexity / measured.base_perplexity[r.corpus] for r in results)
    divergence = sum(r.divergence for r in results) / len(results)
    agreement = sum(r.agreement for r in results) / len(results)
    return f"{_relative(worst)} · {divergence:.2f} · {agreement:.0%}"


def _megabytes(curve: Curve, ratio: float) -> str:
    size = _bytes_at(curve, ratio)
    return "" if size is None else f"{size / 1e6:.0f} MB"


def _bytes_at(curve: Curve, ratio: float) -> int | None:
    return next((p.bytes for p in curve.points if round(p.ratio, 2) == ratio), None)


def _facts_kept() -> dict[int, float]:
    """Share of the cloze facts that the full model knows and a size of directions still does, by its bytes."""
    known = read_knowledge(default_artifact(DEFAULT_MODEL))
    if known is None or (sizes := known.modes.get(DIRECTIONS)) is None:
        return {}
    cloze = [known.facts.index(fact) for fact in FACTS if fact in known.facts]
    shares = (sizes.rank[:, cloze] == 1).double().mean(1)
    return dict(zip(sizes.bytes.tolist(), shares.tolist(), strict=True))


def _kept_at(kept: Mapping[int, float], curve: Curve, ratio: float) -> str:
    size = _bytes_at(curve, ratio)
    return f"{kept[size]:.0%}" if size is not None and size in kept else ""


def _relative_at(curve: Curve, ratio: float) -> str:
    point = next((p for p in curve.points if round(p.ratio, 2) == ratio), None)
    return "" if point is None else _relative(point.perplexity / curve.base_perplexity)


def _relative(value: float) -> str:
    if not math.isfinite(value):
        return "∞"
    return f"{value:.2f} ×" if value < 100 else f"10^{math.log10(value):.1f} ×"
