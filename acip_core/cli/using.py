"""The verbs that use a model at a size: `generate`, `export`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import PrecisionError, SizeError
from .drawing import draw, lines, say
from .options import (
    Megabytes,
    Model,
    NamedArtifact,
    Precision,
    Public,
    Push,
    Size,
    Spend,
    Worse,
    check_push,
    expanded,
    one_target,
    push,
    say_share,
    set_target,
)

if TYPE_CHECKING:
    from ..artifacts.loading import Loaded


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.")],
    size: Size = None,
    megabytes: Megabytes = None,
    worse: Worse = None,
    spend: Spend = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 picks the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw among the likeliest tokens of this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Fixes every random draw.")] = 0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1, tokens that the text has already become less likely.")
    ] = 1.0,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    artifact: NamedArtifact = None,
    precision: Precision = "full",
    dtype: Annotated[
        str, typer.Option(help="To compute in: float32, bfloat16 or float16; auto is float32 on a CPU, else bfloat16.")
    ] = "auto",
) -> None:
    """Continue a text with a model at one size; the completion goes to the standard output while it is written."""
    from ..api import AcipModel
    from ..artifacts.loading import open_model

    one_target(size, megabytes, worse)
    steps = open_model(model, artifact, precision=precision, dtype=dtype)
    loaded = AcipModel(draw(steps, transient=True), on_progress=lines())
    set_target(loaded, size, megabytes, worse, spend)
    for text in loaded.stream(prompt, max_new_tokens, temperature, top_p, seed, chat, repetition_penalty):
        print(text, end="", flush=True)
    print()


def export(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", callback=expanded, help="New folder for the model.")],
    size: Size = None,
    megabytes: Megabytes = None,
    worse: Worse = None,
    spend: Spend = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Multiply the factors out, for tools that know only the base architecture.")
    ] = False,
    artifact: NamedArtifact = None,
    precision: Precision = "full",
    dtype: Annotated[
        str | None,
        typer.Option(help="Of all that is not quantized: float32, bfloat16 or float16; as published by default."),
    ] = None,
    form: Annotated[
        Literal["transformers", "gguf"],
        typer.Option("--format", help="For transformers, or one GGUF file for llama.cpp, in types of its own."),
    ] = "transformers",
    push_to_hub: Push = None,
    public: Public = False,
) -> None:
    """Write a model at one size as a folder that plain transformers loads, or as a GGUF file."""
    from ..api import AcipModel
    from ..artifacts.export import check_dtype, check_free
    from ..artifacts.export import export as run
    from ..artifacts.loading import open_model

    check_free(out)
    check_dtype(dtype)
    check_push(push_to_hub)
    one_target(size, megabytes, worse)
    if size is None and megabytes is None and worse is None:
        raise SizeError("Name the size: --size, --megabytes or --worse.")
    if form == "gguf" and (dense or dtype or precision != "full"):
        raise PrecisionError("A GGUF file has types of its own; leave out --dense, --dtype and --precision.")
    loaded = draw(open_model(model, artifact, precision=precision))
    if form == "gguf":
        _export_gguf(loaded, out, size, megabytes, worse, spend)
        push(out, push_to_hub, public)
        return
    plan = set_target(AcipModel(loaded, on_progress=lines()), size, megabytes, worse, spend)
    draw(run(loaded.elastic, loaded.artifact, plan, out, dense, quantized=loaded.quantized, dtype=dtype))
    written = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    say(f"The model is in {out}, {written / 1e6:.1f} MB of weights.")
    push(out, push_to_hub, public)


def _export_gguf(
    loaded: Loaded, out: Path, size: float | None, megabytes: float | None, worse: float | None, spend: str | None
) -> None:
    from ..api.sized import best_mode
    from ..artifacts.gguf_export import export_gguf, gguf_plan

    elastic = loaded.elastic
    if size is None and spend == "directions":
        raise SizeError("Directions are spent by a share: name --size.")
    if size is not None and (spend or ("directions" if size == 1 else best_mode(loaded))) == "directions":
        plan = elastic.planner.at_ratio(size)
        note = f"factors, which would take {plan.bytes / 1e6:.1f} MB in all, are multiplied out in it"
        if plan.bytes == plan.base_bytes:
            note = "all weights are as published"
    else:
        wanted = elastic.planner.base_bytes * size if size is not None else megabytes and 1e6 * megabytes
        plan = draw(gguf_plan(elastic, loaded.coding, wanted, worse and math.log1p(worse / 100)))
        assert loaded.coding is not None
        rise = loaded.coding.calibration(plan.loss or 0.0)
        note = f"its perplexity is predicted to be at most {100 * math.expm1(rise):.1f} % higher"
        if size is not None and spend is None:
            say_share(plan)
    file = draw(export_gguf(elastic, loaded.artifact, plan, out, loaded.coding))
    say(f"The model is in {file}, {file.stat().st_size / 1e6:.1f} MB with its tokenizer; {note}.")
