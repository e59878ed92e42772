"""The verbs that make an artifact: `precompute`, `codes`, `finetune`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .drawing import draw, is_main_process, say, show_table
from .keeping import write_report
from .options import AnyModel, Folder, Model, Public, Push, Replace, check_push, expanded, push

if TYPE_CHECKING:
    from ..pipelines.precompute import PrecomputeConfig


Out = Annotated[
    Path | None, typer.Option(callback=expanded, help="Folder of the artifact; precomputed/<model> by default.")
]
Quick = Annotated[bool, typer.Option("--quick", help="No training, little text, no facts: usable in minutes.")]
Scorer = Annotated[
    Literal["predicted", "fisher", "iterated", "acip"] | None,
    typer.Option(
        help="Rank by the loss that a two-sided basis predicts, and train the factors (the default); or by gradients "
        "of the full model (the default with other bases), of ever smaller cuts of it, or by a pruning run, and train "
        "adapters."
    ),
]
Preset = Annotated[
    Literal["small", "paper"],
    typer.Option(help="Settings of the pruning run: for models under 1 B, or as published (its adapters are kept)."),
]
Directions = Annotated[
    Literal["two-sided", "activation", "svd"] | None,
    typer.Option(
        "--basis",
        help="Directions by what they do to the loss, by the text that runs through them, or those of the plain SVD; "
        "two-sided by default where the scorer is predicted, otherwise activation.",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(help="Compress only layers whose name has these parts, such as 'self_attn'; may be repeated."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Leave layers as they are, such as 'up_proj' or 'layers.0'; may be repeated."),
]
Stop = Annotated[float | None, typer.Option(min=0.01, max=0.99, help="Size ratio at which the pruning run stops.")]
MicroBatch = Annotated[
    int | None, typer.Option(min=1, help="Windows per backward pass of the pruning run; the rest accumulates.")
]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Recompute activations in the pruning run instead of keeping them.")
]
Float32 = Annotated[bool, typer.Option("--float32", help="No bfloat16 in the pruning run.")]
Steps = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Training steps: of factors, sixteen windows each; of adapters, one window each, and a sixth as many of "
        "four follow.",
    ),
]
BlockSteps = Annotated[
    int,
    typer.Option(
        min=0,
        help="Steps of training the factors block by block before that, as many for each decoder block: one block's "
        "gradients at a time in memory. With --steps 0 nothing follows.",
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(min=0.01, help="Hours for the training of the factors, which then takes as many steps as they allow."),
]
Corpus = Annotated[list[str] | None, typer.Option(help="c4, wikipedia, wikitext2 or a text file; may be repeated.")]
Seed = Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Fixes every random draw; 0 if left out.")]
QuantizeFirst = Annotated[
    str | None,
    typer.Option(help="Make everything from weights quantized to int8, int4, nf4 or fp4, for use with the full ones."),
]
NoCodes = Annotated[
    bool, typer.Option("--no-codes", help="Leave out sizes in bytes, as --quantize-first does; `codes` adds them.")
]
Report = Annotated[bool, typer.Option("--report", help="Write report.html, its pictures, beside it.")]


def _check_training(scorer: str, basis: str | None, steps: int | None, block_steps: int, budget: float | None) -> None:
    """Refuse options of training that do not go together.

    Raises:
        BadParameter: names the options and what they need.
    """
    if scorer == "predicted" and basis not in (None, "two-sided"):
        raise typer.BadParameter(f"--basis {basis} predicts no loss to rank by; name a --scorer, such as fisher.")
    if budget is not None and (scorer != "predicted" or steps is not None):
        raise typer.BadParameter(
            "--budget sets the training steps of factors; it needs --scorer predicted, no --steps."
        )
    if block_steps and scorer != "predicted":
        raise typer.BadParameter("--block-steps trains factors; it needs --scorer predicted.")
    if steps == 0 and not block_steps:
        raise typer.BadParameter("--steps 0 leaves training to --block-steps; without any, use --quick.")


def precompute(
    model: AnyModel = None,
    out: Out = None,
    overwrite: Replace = False,
    quick: Quick = False,
    scorer: Scorer = None,
    preset: Preset = "small",
    basis: Directions = None,
    include: Include = None,
    exclude: Exclude = None,
    stop: Stop = None,
    micro_batch: MicroBatch = None,
    checkpointing: Checkpointing = False,
    float32: Float32 = False,
    steps: Steps = None,
    block_steps: BlockSteps = 0,
    budget: Budget = None,
    corpus: Corpus = None,
    seed: Seed = None,
    quantize_first: QuantizeFirst = None,
    no_codes: NoCodes = False,
    report: Report = False,
    push_to_hub: Push = None,
    public: Public = False,
) -> None:
    """Order a model's directions, train its factors, make its codes, measure its curves, write its artifact."""
    from ..pipelines.precompute import precompute as run
    from ..training.blocks import BlockConfig

    if quick and (block_steps or any(value is not None for value in (steps, seed, budget, scorer))):
        raise typer.BadParameter(
            "--steps, --block-steps, --budget, --seed and --scorer belong to runs that --quick leaves out."
        )
    one_sided = basis not in (None, "two-sided")
    scorer = scorer or ("fisher" if one_sided and not quick else "predicted")
    _check_training(scorer, basis, steps, block_steps, budget)
    if scorer != "acip" and (preset != "small" or stop or micro_batch or checkpointing or float32):
        raise typer.BadParameter("--preset, --stop, --micro-batch, --checkpointing and --float32 need --scorer acip.")
    pruning = {"stop_ratio": stop, "micro_batch": micro_batch, "seed": seed, "checkpointing": checkpointing or None}
    pruning["mixed_precision"] = False if float32 else None
    recipe = _training("quick" if quick else scorer, preset, pruning, steps, seed)
    if block_steps:
        recipe = replace(recipe, blocks=BlockConfig(steps=block_steps, seed=seed or 0))
    recipe = replace(
        recipe,
        basis=basis or recipe.basis,
        budget=budget,
        corpora=tuple(corpus) if corpus else recipe.corpora,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        quantized=quantize_first or recipe.quantized,
        codes=None if no_codes else recipe.codes,
    )
    check_push(push_to_hub)
    folder = draw(run(model, recipe, out, overwrite))
    say(f"The artifact is in {folder}.")
    if is_main_process():
        if report:
            write_report(folder, folder / "report.html")
        push(folder, push_to_hub, public)


def _training(
    scorer: str, preset: str, pruning: dict[str, Any], steps: int | None, seed: int | None
) -> PrecomputeConfig:
    """How directions are ranked, and what is trained.

    Args:
        pruning: settings of the pruning run; those that are None stay the preset's.
    """
    from ..pipelines import recipes
    from ..pipelines.recipes import PAPER_RECIPE, REFINING, SMALL_RECIPE
    from ..training.adapters import AdapterConfig

    named = {"quick": recipes.QUICK, "predicted": recipes.DEFAULT_RECIPE, "fisher": recipes.FISHER_RECIPE}
    recipe = (named | {"iterated": recipes.ITERATED_RECIPE}).get(scorer)
    if recipe is None:
        recipe = PAPER_RECIPE if preset == "paper" else SMALL_RECIPE
        assert recipe.pruning is not None
        given = {name: value for name, value in pruning.items() if value is not None}
        recipe = replace(recipe, pruning=replace(recipe.pruning, **given))
    if recipe.adapters is not None:
        adapters = replace(recipe.adapters, seed=seed or 0, steps=steps or AdapterConfig.steps)
        refining = replace(REFINING, seed=adapters.seed + 1, steps=-(-adapters.steps // 6))
        recipe = replace(recipe, adapters=adapters, refining=refining)
    elif recipe.factors is not None:
        if steps == 0:
            return replace(recipe, factors=None)
        whole = recipe.factors
        count = steps or whole.steps
        sampled = whole.sampled * count // whole.steps
        recipe = replace(recipe, factors=replace(whole, seed=seed or 0, steps=count, sampled=sampled))
    elif steps is not None:
        raise typer.BadParameter(
            "--steps belongs to adapters trained after the pruning run, which this preset has not."
        )
    return recipe


def codes(
    model: AnyModel = None,
    artifact: Folder = None,
    steps: Annotated[
        int, typer.Option(min=0, help="Training steps of adapters for coded layers; 0 leaves adapters out.")
    ] = 0,
    rank: Annotated[int, typer.Option(min=1, help="Rank of these adapters.")] = 8,
    windows: Annotated[int, typer.Option(min=1, help="Held-out windows per corpus for the curves.")] = 32,
) -> None:
    """Add sizes in bytes to an artifact: moments of gradients, codes, calibration, measured curves."""
    from ..pipelines.coding import CodingConfig, add_codes
    from ..training.adapters import AdapterConfig

    adapters = AdapterConfig(rank, 2 * rank, steps, smallest=0.14, largest=0.24, distillation=1.0) if steps else None
    folder = draw(add_codes(model, CodingConfig(adapters=adapters, curve_windows=windows), artifact))
    say(f"The artifact {folder} has sizes in bytes; `acip generate --megabytes` and the page run them.")


def finetune(
    model: Model,
    size: Annotated[float, typer.Option(help="Size ratio of the compressed layers in (0, 1), of directions.")],
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
            callback=expanded, help="Folder of the new artifact; precomputed/<model>-at-50 for 50 % by default."
        ),
    ] = None,
    overwrite: Replace = False,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Fixes every random draw.")] = 0,
    push_to_hub: Push = None,
    public: Public = False,
) -> None:
    """Train adapters for one size, from those that the artifact has; continues where it was."""
    from ..pipelines.finetuning import FinetuneConfig
    from ..pipelines.finetuning import finetune as run

    check_push(push_to_hub)
    tuning = FinetuneConfig(size, tuple(data or ()), steps, seed=seed)
    folder, before, after = draw(run(model, tuning, artifact, out, overwrite))
    sizes = [point.ratio for point in after[0].points]
    rows = []
    for name, curves in (("before", before), ("after", after)):
        for curve in curves:
            values = (curve.at(size) for size in sizes)
            rows.append([f"{curve.corpus}, {name}", *("" if value is None else f"{value:.4g}" for value in values)])
    show_table(["held-out perplexity", *(f"{size:.0%}" for size in sizes)], rows)
    say(f"The artifact is in {folder}.")
    push(folder, push_to_hub, public)
