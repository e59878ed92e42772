"""How bits are spent, in pictures of the loaded model's own codes that follow the slider.

Knows nothing of gradio.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

import numpy as np
import plotly.graph_objects as go

from ..artifacts.coding import CodedCurve
from ..evaluation.methods import corpus_color
from ..model.byte_planner import BytePlanner
from ..model.elastic_model import CodedStates
from ..model.operating_points import slope
from ..model.tracks import LARGEST_PERCENT, Track
from .byte_cut import bits_of, foretold_picture, held_picture
from .canvas import MUTED, laid_out, thinned, title, type_colors
from .pictures import Picture, numbered

_ORANGE = corpus_color("c4")
_CUT = (
    "A size is a cut through that order. What remains differs from layer to layer: the fuller a cell, the more bits "
    "each of its weights keeps. A dot marks weights held exactly, a plus an adapter beside the codes."
)


def byte_method_pictures(
    track: Track, states: CodedStates, kinds: Mapping[str, Sequence[str]], curves: Sequence[CodedCurve]
) -> list[Picture]:
    """The steps of the method where bits are spent, in their order; the last is left out where nothing was measured."""
    held = replace(held_picture(track, states, kinds), title="A size is a cut", note=_CUT)
    foretold = foretold_picture(track, curves)
    return numbered([_prices(track, states, kinds), _order(track), held, *filter(None, [foretold])])


def _prices(track: Track, states: CodedStates, kinds: Mapping[str, Sequence[str]]) -> Picture:
    """What fewer bits cost one layer of each type, halfway up the model; the rings are the size under the slider."""
    planner = _planner(track)
    bits = bits_of(planner, states)
    names = [of_kind[len(of_kind) // 2] for of_kind in kinds.values()]
    figure = go.Figure()
    for kind, name, color in zip(kinds, names, type_colors(len(names)), strict=True):
        lossy = [point for point in planner.hulls[name] if point.loss > 0]  # an exact one has no place on a logarithm
        figure.add_trace(
            go.Scatter(
                x=[round(bits[name][p.state], 2) for p in lossy], y=[p.loss for p in lossy], name=escape(kind),
                mode="lines+markers", line={"color": color, "width": 2}, marker={"size": 5},
                hovertemplate=f"{escape(name)}<br>%{{x}} bits a weight<br>%{{y:.2g}} nats<extra></extra>",
            )
        )  # fmt: skip
    losses = {name: {point.state: point.loss or None for point in planner.hulls[name]} for name in names}

    def rings(percent: float) -> dict[str, list[float | None]]:
        at = dict(zip(planner.hulls, track.plan_at(percent)[1].states, strict=True))
        return {"x": [round(bits[n][at[n]], 2) for n in names], "y": [losses[n][at[n]] for n in names]}

    marker = {"symbol": "circle-open", "size": 12, "color": MUTED, "line": {"width": 2.5}}
    here = go.Scatter(**rings(LARGEST_PERCENT), mode="markers", name="this size", marker=marker, hoverinfo="skip")
    figure.add_trace(here)
    powers = range(-9, 3)
    ticks = {"tickvals": [10.0**power for power in powers], "ticktext": [f"10<sup>{power}</sup>" for power in powers]}
    laid_out(
        figure,
        {"title": title("bits held of each weight"), "rangemode": "tozero"},
        {"title": title("rise of the loss, nats"), "type": "log"} | ticks,
    )
    frames = {percent: [[len(names), rings(percent)]] for percent in track.percents}
    note = (
        "Codes hold a weight in few bits, which makes it a little wrong. How much that should raise the loss is "
        "computed from text beforehand, here for one layer of each type. A layer that is held exactly has no ring."
    )
    return Picture("Fewer bits are cheaper in some layers", note, figure, frames)  # type: ignore[arg-type]


def _order(track: Track) -> Picture:
    """All steps between neighbouring codes of all layers, those that buy most first; the part that is bought filled."""
    planner = _planner(track)
    steps = sorted(
        (
            (slope(low, high), high.bytes - low.bytes)
            for hull in planner.hulls.values()
            for low, high in itertools.pairwise(hull)
        ),
        reverse=True,
    )
    spent = (planner.smallest + np.cumsum([size for _, size in steps])) / 1e6
    at = thinned(len(steps))
    x, y = spent[at], np.log10(np.maximum([1e6 * worth for worth, _ in steps], 1e-12))[at]
    low = float(y.min()) - 0.1

    def bought(megabytes: float) -> dict[str, list[float]]:
        inside = x <= megabytes
        ends = [round(float(np.interp(megabytes, x, y)), 3), round(low, 3)]
        return {"x": [*x[inside].round(4).tolist(), megabytes, megabytes], "y": [*y[inside].round(3).tolist(), *ends]}

    line = {"color": MUTED, "width": 2}
    hover = "%{x:.1f} MB<br>10<sup>%{y:.1f}</sup> nats for a megabyte<extra></extra>"
    every = go.Scatter(x=x.round(4).tolist(), y=y.round(3).tolist(), mode="lines", line=line, hovertemplate=hover)
    ends = [float(x[0]), float(x[-1])]
    floor = go.Scatter(x=ends, y=[low, low], mode="lines", line={"width": 0}, hoverinfo="skip")
    fill = {
        "mode": "lines",
        "line": {"color": _ORANGE, "width": 2.5},
        "fill": "tonexty",
        "fillcolor": "rgba(217,98,43,0.3)",
    }
    figure = go.Figure([every, floor, go.Scatter(**bought(ends[1]), hoverinfo="skip", **fill)])
    figure.update_layout(showlegend=False)
    laid_out(
        figure,
        {"title": title("size of the whole model, MB"), "range": ends},
        {"title": title("nats that a megabyte buys, powers of ten"), "range": [low, float(y.max()) + 0.2]},
    )
    sizes = {percent: min(track.plan_at(percent)[1].bytes / 1e6, ends[1]) for percent in track.percents}
    frames = {percent: [[2, bought(round(size, 4))]] for percent, size in sizes.items()}
    note = (
        f"Each of the {len(steps):,} steps to more bits of a layer has a price in bytes and should lower the loss. "
        "That puts all of them into one order, across layers; a size buys the filled part."
    )
    return Picture("One order for all bytes", note, figure, frames)  # type: ignore[arg-type]


def _planner(track: Track) -> BytePlanner:
    assert isinstance(track.planner, BytePlanner)
    return track.planner
