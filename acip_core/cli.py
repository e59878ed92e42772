"""`python -m acip_core <verb>`: the command line; draws progress and turns errors into one sentence."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from .errors import AcipError
from .progress import Progress, Steps, finish

T = TypeVar("T")
console = Console(stderr=True)
_LINE_SECONDS = 30
_INTERRUPTED = 130
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Push = Annotated[
    str | None, typer.Option("--push-to-hub", help="Publish the result as user/repo, private unless --public.")
]
Public = Annotated[bool, typer.Option("--public", help="Let everyone see a repository that --push-to-hub makes.")]


def _expanded(path: Path | None) -> Path | None:
    """A path with `~` for the home folder, which shells leave in `--out=~/x`."""
    return Path(os.path.expanduser(path)) if path is not None else None


_OF_ARTIFACT = "Folder of the artifact; the one that `precompute` wrote for the model by default."
Folder = Annotated[Path | None, typer.Option("--artifact", callback=_expanded, help=_OF_ARTIFACT)]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the artifact of other weights that lies there.")]
Model = Annotated[
    str | None, typer.Option(help="Hub id, local folder or GGUF file; the embedded default when left out.")
]


def draw(steps: Steps[T]) -> T:
    """Run a computation with a progress bar per stage (done, elapsed, left, note); lines without a terminal."""
    if os.environ.get("RANK", "0") != "0":  # one process of several shows what all do
        return finish(steps)
    if not console.is_terminal:
        return finish(steps, _lines())
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Bars(*columns, console=console, speed_estimate_period=120) as bars:
        return finish(steps, _drawer(bars))


def _lines() -> Callable[[Progress], None]:
    """A line at the start and end of every stage and every half minute between, for logs."""
    began: dict[str, float] = {}
    printed = 0.0

    def show(step: Progress) -> None:
        nonlocal printed
        now = time.monotonic()
        if step.stage not in began or step.done == step.total or now - printed > _LINE_SECONDS:
            printed = now
            seconds = now - began.setdefault(step.stage, now)
            line = f"{step.stage} {step.done}/{step.total}, {seconds:.0f} s, {step.note}"
            console.print(escape(line), highlight=False, soft_wrap=True)

    return show


def _drawer(bars: Bars) -> Callable[[Progress], None]:
    tasks: dict[str, int] = {}

    def show(step: Progress) -> None:
        if step.stage not in tasks:
            tasks[step.stage] = bars.add_task(step.stage, total=step.total, note="", completed=max(0, step.done - 1))
        bars.update(tasks[step.stage], completed=step.done, total=step.total, note=step.note)  # type: ignore[arg-type]

    return show


@app.command()
def precompute(
    model: Model = None,
    out: Annotated[
        Path | None, typer.Option(callback=_expanded, help="Folder of the artifact; precomputed/<model> by default.")
    ] = None,
    overwrite: Replace = False,
    quick: Annotated[bool, typer.Option("--quick", help="No adapters, little text: usable in minutes.")] = False,
    scorer: Annotated[
        Literal["fisher", "iterated", "acip"],
        typer.Option(help="Rank by gradients of the full model, of ever smaller cuts of it, or by a pruning run."),
    ] = "fisher",
    preset: Annotated[
        Literal["small", "paper"],
        typer.Option(
            help="Settings of the pruning run: for models under 1 B, or as published (its adapters are kept)."
        ),
    ] = "small",
    basis: Annotated[
        Literal["activation", "svd"], typer.Option(help="Activation-aware directions, or those of the plain SVD.")
    ] = "activation",
    include: Annotated[
        list[str] | None,
        typer.Option(help="Compress only layers whose name has these parts, such as 'self_attn'; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Leave layers as they are, such as 'up_proj' or 'layers.0'; may be repeated."),
    ] = None,
    stop: Annotated[
        float | None, typer.Option(min=0.01, max=0.99, help="Size ratio at which the pruning run stops.")
    ] = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Windows per backward pass of the pruning run; the rest accumulates.")
    ] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Recompute activations in the pruning run instead of keeping them.")
    ] = False,
    float32: Annotated[bool, typer.Option("--float32", help="No bfloat16 in the pruning run.")] = False,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Adapter training steps of one window each; a sixth as many of four windows follow."),
    ] = None,
    corpus: Annotated[
        list[str] | None, typer.Option(help="c4, wikipedia, wikitext2 or a text file; may be repeated.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Fixes every random draw; 0 if left out.")
    ] = None,
    quantize_first: Annotated[
        str | None,
        typer.Option(
            help="Make everything from weights quantized to int8, int4, nf4 or fp4, for use with the full ones."
        ),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Write report.html, its pictures, beside it.")] = False,
    push: Push = None,
    public: Public = False,
) -> None:
    """Order all singular directions of a model, train its adapters, measure its curve, write its artifact."""
    from .pipelines.precompute import precompute as run
    from .pipelines.recipes import ITERATED_RECIPE, PAPER_RECIPE, QUICK, REFINING, SMALL_RECIPE, PrecomputeConfig
    from .training.adapters import AdapterConfig

    if quick and (steps is not None or seed is not None or scorer != "fisher"):
        raise typer.BadParameter("--steps, --seed and --scorer belong to runs that --quick leaves out.")
    if scorer != "acip" and (preset != "small" or stop or micro_batch or checkpointing or float32):
        raise typer.BadParameter("--preset, --stop, --micro-batch, --checkpointing and --float32 need --scorer acip.")
    recipe = QUICK if quick else ITERATED_RECIPE if scorer == "iterated" else PrecomputeConfig()
    if scorer == "acip":
        recipe = PAPER_RECIPE if preset == "paper" else SMALL_RECIPE
        assert recipe.pruning is not None
        changes: dict[str, Any] = {"stop_ratio": stop, "micro_batch": micro_batch, "seed": seed}
        changes |= {"checkpointing": checkpointing or None, "mixed_precision": False if float32 else None}
        kept = {name: value for name, value in changes.items() if value is not None}
        recipe = replace(recipe, pruning=replace(recipe.pruning, **kept))
    if recipe.adapters is not None:
        adapters = replace(recipe.adapters, seed=seed or 0, steps=steps or AdapterConfig.steps)
        refining = replace(REFINING, seed=adapters.seed + 1, steps=-(-adapters.steps // 6))
        recipe = replace(recipe, adapters=adapters, refining=refining)
    elif steps is not None:
        raise typer.BadParameter(
            "--steps belongs to adapters trained after the pruning run, which this preset has not."
        )
    recipe = replace(
        recipe,
        basis=basis,
        corpora=tuple(corpus) if corpus else recipe.corpora,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        quantized=quantize_first or recipe.quantized,
    )
    _check_push(push)
    folder = draw(run(model, recipe, out, overwrite))
    console.print(escape(f"The artifact is in {folder}."), highlight=False, soft_wrap=True)
    if os.environ.get("RANK", "0") != "0":
        return
    if report:
        _report(folder, folder / "report.html")
    _push(folder, push, public)


def _check_push(repo: str | None) -> None:
    """Say what would keep a result from being published before the work begins."""
    if repo is not None:
        from .storage.hub import check_publishable

        check_publishable(repo)


def _push(folder: Path, repo: str | None, public: bool) -> None:
    if repo is not None:
        from .storage.hub import publish

        address = publish(folder, repo, not public)
        console.print(escape(f"It is published at {address}."), highlight=False, soft_wrap=True)


def _report(folder: Path, path: Path) -> None:
    from .artifacts.comparison import read_comparison
    from .artifacts.reader import read_artifact
    from .artifacts.task_results import read_evaluation
    from .figures.report import write_report

    write_report(read_artifact(folder), path, read_comparison(folder), read_evaluation(folder))
    console.print(escape(f"The report is {path}."), highlight=False, soft_wrap=True)


@app.command("report")
def report_command(
    model: Model = None,
    artifact: Folder = None,
    out: Annotated[
        Path | None, typer.Option(callback=_expanded, help="File to write; report.html in that folder by default.")
    ] = None,
) -> None:
    """Write an artifact's pictures and figures as one HTML page; the model is not loaded."""
    from .artifacts.artifact import default_artifact
    from .model.base_model import DEFAULT_MODEL

    path = Path(model or DEFAULT_MODEL).expanduser().resolve()
    name = (path.stem if path.suffix.lower() == ".gguf" else path.name).lower()  # as `load_base` names it
    folder = artifact or default_artifact(name)
    _report(folder, out or folder / "report.html")


@app.command()
def prepare(
    model: Model = None,
    artifact: Annotated[
        str | None, typer.Option(help="Folder of the artifact, or user/repo; precomputed/<model> by default.")
    ] = None,
) -> None:
    """Fill this machine's cache (converted model, factors), so that the page starts at once."""
    from .artifacts.loading import open_model

    loaded = draw(open_model(model, artifact))
    console.print(escape(f"{loaded.elastic.base.source} is ready."), highlight=False, soft_wrap=True)


@app.command()
def complete(
    model: Model = None,
    artifact: Folder = None,
) -> None:
    """Continue the page's example prompts at every size, so that it can show them while the slider moves."""
    from .artifacts.completions import FILE, write_completions
    from .artifacts.loading import open_model
    from .pipelines.example_completions import complete_examples
    from .storage.atomic import check_writable

    loaded = draw(open_model(model, artifact, same_weights=True))
    check_writable(loaded.folder / FILE)
    write_completions(draw(complete_examples(loaded.elastic)), loaded.folder)
    console.print(escape(f"The completions are in {loaded.folder / FILE}."), highlight=False, soft_wrap=True)


@app.command()
def renew(
    folder: Annotated[Path, typer.Argument(callback=_expanded, help="An artifact.")],
) -> None:
    """Write an artifact's digests anew: it is older than they are, or a file was edited on purpose."""
    from .artifacts.renewal import renew as run

    run(folder)
    console.print(escape(f"The digests in {folder} are those of its files."), highlight=False, soft_wrap=True)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Hub id, local folder, GGUF file, or smollm2-135m-instruct.")],
    out: Annotated[Path, typer.Argument(callback=_expanded, help="New folder for the model.")],
    size: Annotated[float, typer.Option(help="Size ratio of the compressed layers in (0, 1].")],
    dense: Annotated[
        bool, typer.Option("--dense", help="Multiply the factors out, for tools that know only the base architecture.")
    ] = False,
    artifact: Annotated[
        str | None, typer.Option(help="Folder of the artifact, or user/repo; precomputed/<model> by default.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Of the compressed layers: full, int8, int4, nf4 or fp4.")] = "full",
    dtype: Annotated[
        str | None,
        typer.Option(help="Of all that is not quantized: float32, bfloat16 or float16; as published by default."),
    ] = None,
    push: Push = None,
    public: Public = False,
) -> None:
    """Write a model at one size as a folder that plain transformers loads."""
    from .artifacts.export import check_dtype, check_free
    from .artifacts.export import export as run
    from .artifacts.loading import open_model

    check_free(out)
    check_dtype(dtype)
    _check_push(push)
    loaded = draw(open_model(model, artifact, precision=precision))
    plan = loaded.elastic.planner.at_ratio(size)
    draw(run(loaded.elastic, loaded.artifact, plan, out, dense, quantized=loaded.quantized, dtype=dtype))
    written = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    size_told = f", {written / 1e6:.1f} MB of weights"
    console.print(escape(f"The model is in {out}{size_told}."), highlight=False, soft_wrap=True)
    _push(out, push, public)


@app.command("push")
def push_command(
    folder: Annotated[Path, typer.Argument(callback=_expanded, help="An artifact, or a model that `export` wrote.")],
    repo: Annotated[str, typer.Argument(help="Its name on the Hub, user/repo.")],
    public: Public = False,
) -> None:
    """Publish an artifact or an exported model on the Hugging Face Hub, private unless --public."""
    _push(folder, repo, public)


@app.command()
def finetune(
    model: Annotated[str, typer.Argument(help="Hub id, local folder, GGUF file, or smollm2-135m-instruct.")],
    size: Annotated[float, typer.Option(help="Size ratio of the compressed layers in (0, 1).")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="A text file, c4, wikipedia or wikitext2; may be repeated. The artifact's by default."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of four windows each.")] = 300,
    artifact: Annotated[
        str | None, typer.Option(help="Artifact to start from, a folder or user/repo; precomputed/<model> by default.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=_expanded, help="Folder of the new artifact; precomputed/<model>-at-50 for 50 % by default."
        ),
    ] = None,
    overwrite: Replace = False,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Fixes every random draw.")] = 0,
    push: Push = None,
    public: Public = False,
) -> None:
    """Continue the adapters at one size; continues where it was."""
    from .pipelines.finetuning import FinetuneConfig
    from .pipelines.finetuning import finetune as run

    _check_push(push)
    tuning = FinetuneConfig(size, tuple(data or ()), steps, seed=seed)
    folder, before, after = draw(run(model, tuning, artifact, out, overwrite))
    table = Table("held-out perplexity", *(f"{point.ratio:.0%}" for point in after[0].points))
    for name, curves in (("before", before), ("after", after)):
        for curve in curves:
            values = (curve.at(point.ratio) for point in after[0].points)
            cells = ("" if value is None else f"{value:.4g}" for value in values)
            table.add_row(f"{escape(curve.corpus)}, {name}", *cells)
    Console().print(table)
    console.print(escape(f"The artifact is in {folder}."), highlight=False, soft_wrap=True)
    _push(folder, push, public)


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help="Hub id, local folder, GGUF file, or smollm2-135m-instruct.")],
    precision: Annotated[
        list[str] | None, typer.Option(help="int8, int4, nf4 or fp4; may be repeated. int8 and int4 by default.")
    ] = None,
    artifact: Folder = None,
) -> None:
    """Measure the perplexity of all sizes at fewer bits and keep it in the artifact; continues where it was."""
    from .pipelines.quantization_curves import measure_precision

    for name in precision or ("int8", "int4"):
        curves = draw(measure_precision(model, name, artifact))
        table = Table(f"{name}, ÷ full model", *(f"{point.ratio:.0%}" for point in curves[0].points))
        table.add_row("MB", *(f"{point.bytes / 1e6:.0f}" for point in curves[0].points))
        for curve in curves:
            cells = (f"{point.perplexity / curve.base_perplexity:.4g}" for point in curve.points)
            table.add_row(escape(curve.corpus), *cells)
        Console().print(table)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Hub id, local folder, GGUF file, or smollm2-135m-instruct.")],
    sizes: Annotated[str, typer.Option(help="Size ratios, separated by commas.")] = "1.0,0.8,0.6,0.4",
    tasks: Annotated[
        str | None,
        typer.Option(help="lm-eval tasks, wikitext2 or c4 (perplexity), separated by commas; the paper's by default."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Examples per task at most, for a first look.")] = None,
    include: Annotated[
        Path | None, typer.Option(callback=_expanded, help="Folder with lm-eval tasks of your own.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests per forward pass.")] = 8,
    artifact: Folder = None,
) -> None:
    """Run lm-eval's benchmarks at several sizes; continues where it was."""
    from .pipelines.lm_eval import PAPER_CORPORA, PAPER_TASKS
    from .pipelines.lm_eval import evaluate as run

    try:
        ratios = [float(size) for size in sizes.split(",")]
    except ValueError:
        raise typer.BadParameter("--sizes are numbers separated by commas, such as 1.0,0.6.") from None
    names = tuple(name.strip() for name in tasks.split(",")) if tasks else (*PAPER_TASKS, *PAPER_CORPORA)
    results = finish(run(model, ratios, names, artifact, limit, include, batch), _lines())  # lm-eval has bars itself
    table = Table("task", "metric", *(f"{ratio:.0%}" for ratio in sorted(set(ratios), reverse=True)))
    for task, metric in dict.fromkeys((r.task, r.metric) for r in results):
        row = sorted((r for r in results if (r.task, r.metric) == (task, metric)), key=lambda r: -r.ratio)
        table.add_row(task, metric, *(f"{r.value:.4g}" + (f" ± {r.error:.2g}" if r.error else "") for r in row))
    Console().print(table)


@app.command()
def compare(
    model: Model = None,
    artifact: Folder = None,
    method: Annotated[list[str] | None, typer.Option(help="A method; may be repeated. All by default.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Adapter training steps per method.")] = 120,
) -> None:
    """Measure the score maps of all methods at the same sizes on the same text; continues where it was."""
    from .pipelines.method_comparison import ComparisonConfig
    from .pipelines.method_comparison import compare as run
    from .training.adapters import AdapterConfig

    budget = ComparisonConfig(adapters=AdapterConfig(steps=steps))
    comparison = draw(run(model, artifact, budget, tuple(method) if method else None))
    table = Table("method", "adapters", "size", "corpus", "perplexity ÷ base", "KL divergence", "same token")
    for r in comparison.results:
        relative = r.perplexity / comparison.base_perplexity[r.corpus]
        cells = (f"{relative:.3g}", f"{r.divergence:.3f}", f"{r.agreement:.1%}")
        table.add_row(r.method, "yes" if r.adapters else "no", f"{r.ratio:.1%}", escape(r.corpus), *cells)
    Console().print(table)


@app.command()
def ablate(
    model: Model = None,
    artifact: Folder = None,
    row: Annotated[list[str] | None, typer.Option(help="A row; may be repeated. All by default.")] = None,
) -> None:
    """Answer the paper's questions on this model: pruning runs that differ in one thing; continues where it was."""
    from .pipelines.ablation import ablate as run

    rows = draw(run(model, artifact, rows=tuple(row) if row else None))
    table = Table("perplexity ÷ base, worst corpus", *(f"{float(ratio):.0%}" for ratio in rows[0].relative))
    for found in rows:
        table.add_row(found.name, *("∞" if value is None else f"{value:.3g}" for value in found.relative.values()))
    Console().print(table)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2, Ctrl-C is 130."""
    try:
        code = app(standalone_mode=False)
    except AcipError as error:
        console.print("[bold red]Error:[/]", escape(str(error)), highlight=False, soft_wrap=True)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        error.show() if hasattr(error, "show") else None
        sys.exit(error.exit_code)
    if code == _INTERRUPTED:  # typer turns Ctrl-C into this instead of raising
        console.print("Stopped; finished work is kept, the same command continues.", highlight=False)
    sys.exit(code or 0)
