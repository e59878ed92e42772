"""How the method works, in five pictures of the loaded model's own data that follow the slider.

Knows nothing of gradio.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from ..artifacts.loading import Loaded
from ..evaluation.curves import Curve, primary_curves
from ..evaluation.methods import corpus_color, corpus_title, method_of
from ..model.factorization import factorize_layer
from ..model.layers import ElasticLinear
from ..model.rank_costs import factor_parameters
from .canvas import MUTED, laid_out, thinned, title, type_colors
from .cut import Cuts
from .pictures import Picture, layer_types, numbered

_ORANGE, _BLUE = corpus_color("c4"), corpus_color("wikipedia")
_FILL = "rgba(217,98,43,0.3)"
_REPAIRS = {
    True: (
        "Adapters repair what is lost",
        "Small low-rank adapters beside every cut layer are trained once, at random sizes, to say what the full model "
        "says. Dotted is the model without them; their parameters count in every size.",
    ),
    False: (
        "Training repairs what is lost",
        "The thin matrices of all layers are trained once, at random sizes, to say what the full model says. Dotted "
        "is the model before; a size costs the same.",
    ),
}
_PERCENT = [0, 102]  # of an axis that must show a line at its end


def method_pictures(loaded: Loaded, cuts: Cuts) -> list[Picture]:
    """The steps of the method, in their order; one that the artifact has no data for is left out."""
    layers = loaded.elastic.elastic_layers()
    adapters = loaded.artifact.adapters
    rank = next(iter(adapters.values())).a.shape[0] if adapters else 0
    steps = [
        _directions(loaded, layers),
        _order(loaded.artifact.scores, cuts),
        _cut(cuts, layer_types(loaded.artifact)),
        _price(layers, layer_types(loaded.artifact), cuts, rank, loaded.elastic.pivoted),
        *_repair(loaded.artifact.curves, cuts),
    ]
    return numbered(steps)


def _directions(loaded: Loaded, layers: Mapping[str, ElasticLinear]) -> Picture:
    """Output energy that the first directions of one layer carry, in the artifact's basis and in the weight's own."""
    # One that is measured at its input and small, so that no visitor waits for its factorization.
    basis = loaded.artifact.basis
    names = [name for name in layers if basis[name].side == "input"] or list(layers)
    least = min(layers[name].weight.numel() for name in names)
    names = [name for name in names if layers[name].weight.numel() == least]
    name = names[len(names) // 2]
    weight = layers[name].weight.detach().float().cpu()
    moment = basis[name]
    root = moment.root()
    plain = factorize_layer(weight)
    lines = {"by the weight alone": plain.singular_values.square()}
    weighted = ""
    if moment.side == "input":
        energies = factorize_layer(weight, root).singular_values.square()
        carried = root.images(plain.down(weight)).square().sum(dim=1)
        if not torch.allclose(energies, carried, rtol=1e-3):
            lines = {"by what it does to text": energies, "by the weight alone": carried}
            weighted = ", weighted by the text that runs through it"
    figure = go.Figure()
    for (label, energies), color, dash in zip(lines.items(), (_ORANGE, MUTED), ("solid", "dash"), strict=False):
        share = 100 * torch.cat([torch.zeros(1), energies.cumsum(0) / energies.sum()]).numpy()
        at = thinned(len(share))
        line = {"color": color, "width": 2.5, "dash": dash}
        hover = f"{label}: %{{x}} directions<br>%{{y:.1f}} % of the output<extra></extra>"
        figure.add_trace(
            go.Scatter(
                x=at.tolist(), y=share[at].round(2).tolist(), name=label, line=line, mode="lines", hovertemplate=hover
            )
        )
    count = len(plain.singular_values)
    laid_out(figure, {"title": title("directions kept")}, {"title": title("output energy, %"), "range": _PERCENT})
    note = (
        f"The weight of {name} is split into {count:,} directions by a singular value decomposition{weighted}. "
        "The first ones do most of the work, so the last ones can go."
    )
    return Picture("A weight becomes directions", note, figure)


def _order(scores: Mapping[str, torch.Tensor], cuts: Cuts) -> Picture:
    """All scores of the model, best first, with the part that is kept filled."""
    every = np.sort(torch.cat(list(scores.values())).double().numpy())[::-1]
    at = thinned(len(every))
    y = np.log10(np.maximum(every[at], np.finfo(np.float32).tiny) / max(every[0], np.finfo(np.float32).tiny))
    x = 100 * at / max(1, len(every) - 1)
    low = float(y.min()) - 0.1

    def kept(share: float) -> dict[str, list[float]]:
        inside = x <= share
        ends = [round(float(np.interp(share, x, y)), 3), round(low, 3)]
        return {"x": [*x[inside].round(2).tolist(), share, share], "y": [*y[inside].round(3).tolist(), *ends]}

    hover = "%{x:.0f} % of all directions<br>10<sup>%{y:.1f}</sup> of the best score<extra></extra>"
    figure = go.Figure(
        go.Scatter(
            x=x.round(2).tolist(),
            y=y.round(3).tolist(),
            mode="lines",
            line={"color": MUTED, "width": 2},
            hovertemplate=hover,
        )
    )
    fill = {"mode": "lines", "line": {"color": _ORANGE, "width": 2.5}, "hoverinfo": "skip"}
    floor = go.Scatter(x=[0, 100], y=[low, low], mode="lines", line={"width": 0}, hoverinfo="skip")
    figure.add_traces([floor, go.Scatter(**kept(100.0), fill="tonexty", fillcolor=_FILL, **fill)])
    figure.update_layout(showlegend=False)
    frames = {percent: [[2, kept(share)]] for percent, share in cuts.kept_shares().items()}
    laid_out(
        figure,
        {"title": title("directions of all layers, best first, %"), "range": [0, 100]},
        {"title": title("score, powers of ten"), "range": [low, 0.2]},
    )
    note = (
        f"Each of the {len(every):,} directions gets a score: how much the predictions depend on it, for what it "
        "costs. That puts all of them into one order, across layers; a size keeps the filled part."
    )
    return Picture("One order for all directions", note, figure, frames)


def _cut(cuts: Cuts, kinds: Mapping[str, Sequence[str]]) -> Picture:
    note = (
        "A size is a cut through that order. What remains differs from layer to layer: the fuller a cell, the more "
        "its layer keeps. Nothing is computed for it, so the slider goes back as easily."
    )
    return replace(cuts.rank_picture(kinds), title="A size is a cut", note=note)


def _price(
    layers: Mapping[str, ElasticLinear],
    kinds: Mapping[str, Sequence[str]],
    cuts: Cuts,
    adapter_rank: int,
    pivoted: bool,
) -> Picture:
    """Every layer's parameters against the directions it keeps, at the slider's position."""
    figure = go.Figure()
    for kind, color in zip(kinds, type_colors(len(kinds)), strict=True):
        figure.add_trace(
            go.Scatter(
                x=[100.0] * len(kinds[kind]), y=[100.0] * len(kinds[kind]), mode="markers", name=escape(kind),
                marker={"color": color, "size": 6, "opacity": 0.6},
                hovertemplate=f"{escape(kind)}<br>%{{x}} % of its directions<br>%{{y}} % of its size<extra></extra>",
            )
        )  # fmt: skip
    figure.add_hline(y=100, line={"color": MUTED, "width": 1, "dash": "dot"})

    def point(percent: int, name: str) -> tuple[float, float]:
        m, n = layers[name].weight.shape
        rank = cuts.rank(percent, name)
        cost = 100.0 if rank is None else 100 * factor_parameters(rank + adapter_rank, m + n, pivoted) / (m * n)
        return cuts.share(percent, name), round(cost, 1)

    frames = {}
    for percent in cuts.percents:
        frame = []
        for index, names in enumerate(kinds.values()):
            x, y = zip(*(point(percent, name) for name in names), strict=True)
            frame.append([index, {"x": x, "y": y}])
        frames[percent] = frame
    laid_out(
        figure,
        {"title": title("directions that a layer keeps, %"), "range": [-2, 102]},
        {"title": title("its size, %"), "range": [0, 108]},
    )
    note = (
        "A layer with few directions is stored, and run, as two thin matrices: smaller and faster. Each dot is a "
        "layer. Where these would save little, its original weight comes back whole, at the dotted line."
    )
    return Picture("Thin where it pays, whole where not", note, figure, frames)


def _repair(curves: Sequence[Curve], cuts: Cuts) -> Iterator[Picture]:
    """Perplexity at every size and, where it was measured, before what was trained."""
    own = primary_curves(curves)
    if not own:
        return
    bare = [curve for curve in curves if curve.method == method_of(own[0].method).id and curve not in own]
    figure = go.Figure()
    for curve in [*own, *bare]:
        points = sorted(curve.points, key=lambda point: point.ratio)
        name = corpus_title(curve.corpus) + (", without" if curve in bare else "")
        figure.add_trace(
            go.Scatter(
                x=[100 * p.ratio for p in points], y=[p.perplexity / curve.base_perplexity for p in points], name=name,
                line={"color": corpus_color(curve.corpus), "width": 2.5, "dash": "dot" if curve in bare else "solid"},
                mode="lines", hovertemplate=f"{name}<br>%{{x:.0f}} %: %{{y:.2f}} ×<extra></extra>",
            )
        )  # fmt: skip
    highest = max(p.perplexity / c.base_perplexity for c in own for p in c.points)
    bottom, top = np.log10(0.8), np.log10(2.5 * max(2.0, highest))
    line = {"color": MUTED, "width": 1.5}
    figure.add_trace(
        go.Scatter(x=[100, 100], y=[10**bottom, 10**top], mode="lines", line=line, showlegend=False, hoverinfo="skip")
    )
    ticks = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
    x = {"title": title("size, %"), "range": [cuts.percents[0] - 2, 102], "dtick": 10}
    y: dict[str, Any] = {"title": title("perplexity ÷ full model"), "type": "log", "range": [bottom, top]}
    laid_out(figure, x, y | {"tickvals": ticks, "ticktext": [f"{tick:,} ×" for tick in ticks]})
    frames = {percent: [[len(figure.data) - 1, {"x": [percent, percent]}]] for percent in cuts.percents}
    if bare:
        yield Picture(*_REPAIRS["+adapters" in own[0].method], figure, frames)
    else:
        yield Picture("What a size costs", "Perplexity on held-out text, relative to the full model's.", figure, frames)
