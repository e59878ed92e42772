"""The model card of an artifact: what it is, how it was made, what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

from ..evaluation.methods import corpus_title, curve_title
from ..model.base_model import DEFAULT_HUB_ID, DEFAULT_MODEL
from ..model.size_planner import DIRECTIONS
from ..storage.network import hub_reachable

if TYPE_CHECKING:
    from ..evaluation.curves import Curve
    from ..model.size_planner import Plan
    from .artifact import Artifact

_DEFAULT_LICENCE = "apache-2.0"


def hub_name(artifact: Artifact) -> str:
    """Where other tools find the base model: the embedded default is known to the Hub under another name."""
    return DEFAULT_HUB_ID if artifact.name == DEFAULT_MODEL else artifact.source


def model_card(artifact: Artifact) -> str:
    """README.md of the artifact: what it is, how it was made, what was measured."""
    lines = [
        *_metadata(artifact),
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


def export_card(
    artifact: Artifact, curves: Sequence[Curve], plan: Plan, dense: bool, custom: bool, precision: str, gguf: str = ""
) -> str:
    """README.md of a model at one size: what it is, its size and perplexity, how to load it, whose licence applies.

    Args:
        custom: whether code beside the weights is needed to read them.
        precision: of quantized layers; empty where none are.
        gguf: name of the one file that is written for llama.cpp; empty for transformers.
    """
    licence = _licence(artifact)
    measured = [(c, value) for c in curves if (value := c.at(plan.ratio)) is not None]
    lines = [
        *_metadata(artifact, licence, is_model=True),
        f"# {artifact.name} at {plan.ratio:.1%} size" + (f", {precision}" if precision else ""),
        "",
        f"{_amount(plan, gguf)}{plan.bytes / 1e6:.1f} of {plan.base_bytes / 1e6:.1f} MB"
        + (" (multiplied out here, so the files are as large as the base model's)." if dense else "."),
        "",
        *[
            f"- perplexity on held-out {corpus_title(c.corpus)} text: {value:.4g}, "
            f"{value / c.base_perplexity:.3g} × the original's"
            for c, value in measured
        ],
        *([""] if measured else []),
        *_usage(", trust_remote_code=True" if custom else f', gguf_file="{gguf}"' if gguf else ""),
        *(["", f"llama.cpp reads it: `llama-cli -m {gguf}`."] if gguf else []),
        "",
        f"The licence of the base model ({licence or hub_name(artifact)}) applies.",
        "",
        "Recipe: `" + json.dumps(artifact.recipe) + "`",
    ]
    return "\n".join(lines) + "\n"


def _usage(option: str) -> list[str]:
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder"{option})',
        f'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder"{option})',
        "```",
    ]


def _amount(plan: Plan, gguf: str) -> str:
    """What a size keeps, before its bytes: where bits are spent, every parameter, each in fewer of them."""
    if gguf:
        cut = f"a cut to {plan.parameters:,} parameters, multiplied out" if plan.mode == DIRECTIONS else "each matrix"
        return f"{cut[0].upper()}{cut[1:]}, in types of llama.cpp: "
    if plan.mode != DIRECTIONS:
        return "All parameters, each matrix entropy-coded in as few bits as the size allows: "
    return f"{plan.parameters:,} of {plan.base_parameters:,} parameters, "


def _metadata(artifact: Artifact, licence: str | None = None, is_model: bool = False) -> list[str]:
    """The card's YAML header, as the Hub reads it.

    Args:
        is_model: whether the folder holds a model, not an artifact.
    """
    base = hub_name(artifact)
    data = ModelCardData(
        base_model=base if base.count("/") == 1 else None,
        license=licence,
        pipeline_tag="text-generation" if is_model else None,
        library_name="transformers" if is_model else None,
        tags=["acip", "compression", "low-rank"],
    )
    return ["---", data.to_yaml(), "---"]


def _licence(artifact: Artifact) -> str | None:
    """The licence that the base model's card names; None without a card or a network."""
    if artifact.name == DEFAULT_MODEL:
        return _DEFAULT_LICENCE
    if not hub_reachable():
        return None
    try:
        return ModelCard.load(artifact.source, ignore_metadata_errors=True).data.license
    except Exception:  # many kinds, each of which means that there is none to be had
        return None


def curve_table(curves: tuple[Curve, ...]) -> list[str]:
    """A Markdown table, one row a size, one column a curve: perplexity (and its ratio to the base model's)."""
    if not curves:
        return []
    header = [f"{curve_title(curve.method)}, {corpus_title(curve.corpus)}" for curve in curves]
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
