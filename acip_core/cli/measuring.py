"""The verbs behind `acip measure`; each keeps its figures in the artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..progress import finish
from .drawing import draw, lines, say, show_table
from .options import AnyModel, Folder, expanded


def curve(model: AnyModel = None, artifact: Folder = None) -> None:
    """Measure the artifact's own curves again, on the text of the old ones; continues where it was."""
    from ..pipelines.size_curves import measure_curves

    curves = draw(measure_curves(model, artifact))
    rows = [[found.corpus, *(f"{point.perplexity:.4g}" for point in found.points)] for found in curves]
    show_table(["perplexity", *(f"{point.ratio:.0%}" for point in curves[0].points)], rows)


def agreement(model: AnyModel = None, artifact: Folder = None) -> None:
    """Measure how often each size of the curve says the same as the full model, and how far it is from it."""
    from ..pipelines.size_curves import measure_agreement

    curves = draw(measure_agreement(model, artifact))
    columns = [f"{found.corpus}, {kind}" for found in curves for kind in ("same token", "KL divergence")]
    rows = []
    for points in zip(*(found.points for found in curves), strict=True):
        values = (text for point in points for text in (f"{point.agreement:.1%}", f"{point.divergence:.3f}"))
        rows.append([f"{points[0].ratio:.0%}", *values])
    show_table(["size", *columns], rows)


def precision(
    model: AnyModel = None,
    named: Annotated[
        list[str] | None,
        typer.Option("--precision", help="int8, int4, nf4 or fp4; may be repeated. int8 and int4 by default."),
    ] = None,
    artifact: Folder = None,
) -> None:
    """Measure the perplexity of all sizes at fewer bits and keep it in the artifact; continues where it was."""
    from ..pipelines.size_curves import measure_precision

    for name in named or ("int8", "int4"):
        curves = draw(measure_precision(model, name, artifact))
        rows = [["MB", *(f"{point.bytes / 1e6:.0f}" for point in curves[0].points)]]
        for curve in curves:
            relative = (point.perplexity / curve.base_perplexity for point in curve.points)
            rows.append([curve.corpus, *(f"{value:.4g}" for value in relative)])
        show_table([f"{name}, ÷ full model", *(f"{point.ratio:.0%}" for point in curves[0].points)], rows)


def tasks(
    model: AnyModel = None,
    sizes: Annotated[str, typer.Option(help="Size ratios of directions, separated by commas.")] = "1.0,0.8,0.6,0.4",
    named: Annotated[
        str | None,
        typer.Option(
            "--tasks", help="lm-eval tasks, wikitext2 or c4 (perplexity), separated by commas; the paper's by default."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Examples per task at most, for a first look.")] = None,
    include: Annotated[
        Path | None, typer.Option(callback=expanded, help="Folder with lm-eval tasks of your own.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests per forward pass.")] = 8,
    artifact: Folder = None,
) -> None:
    """Run lm-eval's benchmarks at several sizes; continues where it was."""
    from ..pipelines.lm_eval import PAPER_CORPORA, PAPER_TASKS
    from ..pipelines.lm_eval import evaluate as run

    try:
        ratios = [float(size) for size in sizes.split(",")]
    except ValueError:
        raise typer.BadParameter("--sizes are numbers separated by commas, such as 1.0,0.6.") from None
    names = tuple(name.strip() for name in named.split(",")) if named else (*PAPER_TASKS, *PAPER_CORPORA)
    results = finish(run(model, ratios, names, artifact, limit, include, batch), lines())  # lm-eval has bars itself
    rows = []
    for task, metric in dict.fromkeys((r.task, r.metric) for r in results):
        measured = sorted((r for r in results if (r.task, r.metric) == (task, metric)), key=lambda r: -r.ratio)
        values = (f"{r.value:.4g}" + (f" ± {r.error:.2g}" if r.error else "") for r in measured)
        rows.append([task, metric, *values])
    show_table(["task", "metric", *(f"{ratio:.0%}" for ratio in sorted(set(ratios), reverse=True))], rows)


def methods(
    model: AnyModel = None,
    artifact: Folder = None,
    method: Annotated[list[str] | None, typer.Option(help="A method; may be repeated. All by default.")] = None,
    size: Annotated[
        list[float] | None, typer.Option(help="A size that is compared, such as 0.8; may be repeated. All by default.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Windows of text that every method is trained on.")] = 120,
) -> None:
    """Measure all methods at the same sizes on the same text, trained alike; continues where it was."""
    from ..pipelines.method_comparison import ComparisonConfig
    from ..pipelines.method_comparison import compare as run
    from ..training.adapters import AdapterConfig

    budget = ComparisonConfig(adapters=AdapterConfig(steps=steps))
    comparison = draw(run(model, artifact, budget, tuple(method) if method else None, tuple(size) if size else None))
    rows = []
    for r in comparison.results:
        relative = r.perplexity / comparison.base_perplexity[r.corpus]
        cells = (f"{relative:.3g}", f"{r.divergence:.3f}", f"{r.agreement:.1%}")
        rows.append([r.method, "yes" if r.adapters else "no", f"{r.ratio:.1%}", r.corpus, *cells])
    show_table(["method", "adapters", "size", "corpus", "perplexity ÷ base", "KL divergence", "same token"], rows)


def ablations(
    model: AnyModel = None,
    artifact: Folder = None,
    row: Annotated[list[str] | None, typer.Option(help="A row; may be repeated. All by default.")] = None,
) -> None:
    """Answer the paper's questions on this model, and what each of our parts is worth; continues where it was."""
    from ..pipelines.ablation import ablate as run

    rows = draw(run(model, artifact, rows=tuple(row) if row else None))
    columns = ["perplexity ÷ base, worst corpus", *(f"{float(ratio):.0%}" for ratio in rows[0].relative)]
    values = ([found.name, *("∞" if v is None else f"{v:.3g}" for v in found.relative.values())] for found in rows)
    show_table(columns, values)


def knowledge(model: AnyModel = None, artifact: Folder = None) -> None:
    """Ask every size for the facts that the full model knows, for the page; continues where it was."""
    from ..pipelines.knowledge import measure_knowledge

    known = draw(measure_knowledge(model, artifact))
    say(f"The full model knows {len(known.facts)} facts, of which the page shows {len(known.strip)}.")
    for mode, sizes in known.modes.items():
        shown = range(0, len(sizes.bytes), max(1, len(sizes.bytes) // 8))
        rows = [["known", *(f"{sizes.share[i]:.0%}" for i in shown)]]
        show_table([f"{mode}, MB", *(f"{int(sizes.bytes[i]) / 1e6:.0f}" for i in shown)], rows)
