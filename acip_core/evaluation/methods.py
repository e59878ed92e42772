"""Registry of methods and corpora: what each is called and how it is drawn. No other module names them.

A curve's `method` is a label: a method's id, then `+factors`, `+adapters`, `, tuned at 60%` and `, int8` where they
apply.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..model.quantization import PRECISIONS, at_precision

_OTHER_COLOR = "#7a7f87"


@dataclass(frozen=True)
class Method:
    """A basis and a score map.

    Attributes:
        id: in files and on the command line.
        title: as people write it.
        color, dash: of its lines, as plotly names them.
        description: what it does, in one sentence.
        paper: arXiv number of the paper that it is from; none where it is this project's.
        trained: whether its weights are trained, so that adapters are no part of its comparison.
    """

    id: str
    title: str
    color: str = _OTHER_COLOR
    dash: str = "longdash"
    description: str = ""
    paper: str = ""
    trained: bool = False


@dataclass(frozen=True)
class Corpus:
    """A text; color is not the only way to tell its lines from those of another.

    Attributes:
        kind: what it is made of.
    """

    id: str
    title: str
    kind: str = "a text of your own"
    color: str = _OTHER_COLOR
    symbol: str = "circle"


_METHODS = (
    Method(
        "artifact", "this project's artifact", "#d9622b", "solid",
        "The artifact with all that was trained.", trained=True,
    ),
    Method(
        "fisher-envelope", "Fisher on the envelope", "#d9622b", "dashdot",
        "Fisher information of every direction ÷ its cost, on each layer's concave envelope.",
    ),
    Method(
        "predicted", "two-sided basis", "#d9622b", "dashdot",
        "Directions of K-FAC's two-sided basis by the loss it predicts ÷ cost, on each layer's envelope; the default.",
    ),
    Method(
        "factors", "two-sided basis, factors", "#d9622b", "solid",
        "The two-sided basis, all entries of its factors trained on as many tokens as the other methods train on.",
        trained=True,
    ),
    Method(
        "fisher-iterated", "iterated Fisher", "#e0a030", "dashdot",
        "Fisher information on the envelope, measured anew at ever smaller sizes.",
    ),
    Method(
        "acip-small", "pruning run from the Fisher ranking", "#b8860b", "dashdot",
        "ACIP's pruning run, started from the Fisher ranking.",
    ),
    Method("fisher-density", "Fisher ÷ cost", "#2b7bd9", "longdash", "Fisher information ÷ cost, no envelope."),
    Method(
        "svd-llm", "SVD-LLM", "#2f9e5b", "dash",
        "Every layer at the same size ratio, by whitened singular values.", "2403.07378",
    ),
    Method(
        "gradient", "accumulated gradient", "#8a5fd3", "longdash",
        "Absolute mask gradients, accumulated.", "2502.01717",
    ),
    Method(
        "dobi-svd", "Dobi-SVD", "#1f9fa8", "longdash",
        "One learned truncation per layer, one run per size.", "2502.02723",
    ),
    Method(
        "aa-svd", "AA-SVD", "#4c6a2f", "longdash",
        "One run per size, its blocks refined in the cut model.", "2604.02119", trained=True,
    ),
    Method(
        "acip", "ACIP as published", "#c2417c", "dashdot",
        "The paper's pruning run on the plain SVD.", "2502.01717",
    ),
    Method(
        "asvd", "ASVD", "#7a7f87", "longdash",
        "Activation-scaled singular values, ranks by layer sensitivity.", "2312.05821",
    ),
    Method(
        "svd-magnitude", "plain SVD", "#a0764d", "dot", "Singular values of the weights, model-wide.", "2502.01717",
    ),
)  # fmt: skip
METHODS = {method.id: method for method in _METHODS}
# Quantizers of others, which spend bytes; in `peers.json`.
PEERS = {
    method.id: method
    for method in (
        Method("rtn", "round-to-nearest", "#a0764d", "dot", "Every weight to the nearest of its group's levels."),
        Method("gptq", "GPTQ", "#2f9e5b", "dash", "Rounding with each error moved onto later columns."),
        Method("nf4", "nf4", "#8a5fd3", "dash", "Normal quantiles in blocks, double quantization."),
        Method("llama.cpp", "llama.cpp", "#1f9fa8", "dash", "ggml's block types with an importance matrix."),
        Method("bitstack", "BitStack", "#c2417c", "dashdot", "Rounds of signs and a low-rank magnitude."),
        Method("int4-ranks", "int4 + directions", "#b8860b", "longdash", "Directions cut by score, factors in int4."),
    )
}
CORPORA = {
    corpus.id: corpus
    for corpus in (
        Corpus("c4", "C4", "web pages", "#d9622b"),  # readable on light and dark
        Corpus("wikipedia", "Wikipedia", "encyclopedia articles", "#2b7bd9", "square"),
        Corpus("wikitext2", "WikiText-2", "encyclopedia articles"),
    )
}
# Ids in files of `compare` that were written before an id meant the same everywhere.
_FORMER_COMPARED = {"ours": "fisher-envelope", "iterated": "fisher-iterated", "fisher": "fisher-density"}


def method(name: str) -> Method:
    """The method of an id; one that is not in the registry is called by its id."""
    return METHODS.get(name) or PEERS.get(name) or Method(name, name)


def method_of(label: str) -> Method:
    """The method of a curve's label."""
    return method(re.split(r"\+|, ", label, maxsplit=1)[0])


def artifact_method(recipe: Mapping[str, Any]) -> str:
    """The id of the score map that a recipe makes."""
    if pruning := recipe.get("pruning"):
        return "acip-small" if isinstance(pruning, dict) and pruning.get("warm_start") else "acip"
    if recipe.get("scorer") == "predicted":
        return "predicted"
    return "fisher-iterated" if recipe.get("stages") else "fisher-envelope"


def current_label(label: str, recipe: Mapping[str, Any]) -> str:
    """The label of an artifact's curve by today's ids: artifacts used to say `fisher` and `acip` for two methods each.

    Args:
        recipe: of the artifact.
    """
    former = re.match(r"(fisher|acip)(?=\+|, |$)", label)
    if former is None or (former[0] == "acip" and not recipe.get("pruning")):
        return label
    return artifact_method(recipe if former[0] == "acip" else {**recipe, "pruning": None}) + label[former.end() :]


def current_id(name: str) -> str:
    """A method's id in `comparison.json` or on the command line of `compare`, by today's ids."""
    return _FORMER_COMPARED.get(name, name)


def method_title(name: str, adapters: bool = False) -> str:
    """A method as people write it, with its adapters where they are not a part of it."""
    return method(name).title + (", adapters" if adapters and name != "artifact" else "")


def curve_title(label: str) -> str:
    """A curve's label as people write it."""
    known = method_of(label)
    added = label.removeprefix(known.id).replace("+adapters", ", adapters").replace("+factors", ", trained factors")
    return known.title + added


def relative_title(label: str, own: str) -> str:
    """What a curve is called beside the artifact's own, whose method it may share.

    Args:
        label: of the curve.
        own: label of the artifact's own curves.
    """
    names = {at_precision("", name): name for name in PRECISIONS}
    precision = next((ending for ending in names if label.endswith(ending)), "")
    own_precision = next((ending for ending in names if own.endswith(ending)), "")
    if label.removesuffix(precision) == own.removesuffix(own_precision):
        return names.get(precision, "full precision")
    if precision or method_of(label) != method_of(own):
        return curve_title(label)
    if "+adapters" in label:
        return "before tuning"
    return "before training" if "+factors" in own else "no adapters"


_SAME_CUTS = {
    "before training": "The same cuts before their factors were trained.",
    "before tuning": "The same cuts before their adapters were tuned.",
    "no adapters": "The same cuts without trained adapters.",
    "full precision": "The same cuts with weights in full precision.",
}


def relative_meaning(label: str, own: str) -> str:
    """What a curve beside the artifact's own shows, in one sentence; arguments as `relative_title`."""
    title = relative_title(label, own)
    if title in PRECISIONS:
        return f"The same cuts with weights in {title}."
    return _SAME_CUTS.get(title) or method_of(label).description or f"The method {title}."


def corpus_title(corpus: str) -> str:
    """A corpus as people write it; a text file is called by its name."""
    return _corpus(corpus).title


def corpus_meaning(corpus: str, with_error: bool) -> str:
    """What a corpus's line shows, and the band around it where its errors are known."""
    line = f"Measured on held-out text of {corpus_title(corpus)}, {_corpus(corpus).kind}."
    band = "two standard errors, over windows of text, of how much worse it is than the original"
    return f"{line} The band around it: {band}." if with_error else line


def corpus_color(corpus: str) -> str:
    """Its line in every figure; a text of a user's own has that of all such texts."""
    return _corpus(corpus).color


def corpus_symbol(corpus: str) -> str:
    """The symbol of its points, as plotly names it."""
    return _corpus(corpus).symbol


def _corpus(name: str) -> Corpus:
    return CORPORA.get(name, Corpus(name, name))
