"""What each byte buys: which layers hold how many bits at the slider's size, and predicted against measured loss.

Knows nothing of gradio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from ..artifacts.coding import CodedCurve
from ..evaluation.methods import corpus_color, corpus_symbol, corpus_title
from ..model.byte_planner import BytePlanner
from ..model.elastic_model import CodedStates
from ..model.operating_points import code_of, is_coded
from ..model.tracks import LARGEST_PERCENT, Track
from .canvas import MUTED, laid_out, title
from .pictures import Picture

_COLORS = ("rgba(43,123,217,0.04)", "rgba(43,123,217,0.85)")
_MOST_BITS = 8
_HELD = (
    "Every cell is a layer, the last rows are the tables of tokens; the fuller it is, the more bits are held of each "
    "of its weights. A dot marks weights held exactly, a plus an adapter beside the codes."
)
_FORETOLD = (
    "How much the loss rises, in nats per token, as it was predicted without running the model and as it was measured; "
    "the ring is the size under the slider."
)


def held_picture(track: Track, states: CodedStates, kinds: Mapping[str, Sequence[str]]) -> Picture:
    """Bits per weight of every layer and table at each position of the slider, by type and depth."""
    rows = {**kinds, **{name: [name] for name in states.tables}}
    planner = track.planner
    assert isinstance(planner, BytePlanner)
    bits = bits_of(planner, states)
    frames = {}
    for percent in track.percents:
        at = dict(zip(planner.hulls, track.plan_at(percent)[1].states, strict=True))
        frames[percent] = _cells(rows, at, bits)
    heat = go.Heatmap(
        x=list(range(max(map(len, rows.values())))), y=[escape(kind) for kind in rows], zmin=0, zmax=_MOST_BITS,
        colorscale=list(_COLORS), showscale=False, xgap=1, ygap=1, texttemplate="%{text}",
        hovertemplate="%{y}, depth %{x}<br>%{customdata}<extra></extra>", **frames[LARGEST_PERCENT],
    )  # fmt: skip
    figure = laid_out(
        go.Figure(heat),
        {"title": title("depth"), "showgrid": False},
        {"type": "category", "autorange": "reversed", "showgrid": False},
    )
    figure.update_layout(height=90 + 30 * len(rows))
    moving: Any = {percent: [[0, cells]] for percent, cells in frames.items()}
    return Picture("Bits held of each weight", _HELD, figure, moving)


def bits_of(planner: BytePlanner, states: CodedStates) -> dict[str, dict[int, float]]:
    """Bits per weight of every layer and table, scales and adapter counted, by its state."""
    weights = {name: matrix.codes[0].z.numel() for name, matrix in states.coded.matrices.items()}
    return {
        name: {point.state: 8 * point.bytes / weights[name] for point in hull} for name, hull in planner.hulls.items()
    }


def _cells(
    rows: Mapping[str, Sequence[str]], at: Mapping[str, int], bits: Mapping[str, Mapping[int, float]]
) -> dict[str, Any]:
    columns = max(map(len, rows.values()))
    cells: dict[str, Any] = {"z": [], "text": [], "customdata": []}
    for names in rows.values():
        rest = [None] * (columns - len(names))
        held = [bits[name][at[name]] for name in names]
        cells["z"].append([*(round(min(value, _MOST_BITS), 2) for value in held), *rest])
        cells["text"].append([*(_sign(at[name]) for name in names), *[""] * len(rest)])
        worded = [f"{value:.2f} bits a weight, {_word(at[name])}" for name, value in zip(names, held, strict=True)]
        cells["customdata"].append([*worded, *rest])
    return cells


def _sign(state: int) -> str:
    return "•" if not is_coded(state) else "+" if code_of(state)[1] else ""


def _word(state: int) -> str:
    if not is_coded(state):
        return "exact"
    level, adapted = code_of(state)
    return f"codes of level {level}{' and an adapter' if adapted else ''}"


def foretold_picture(track: Track, curves: Sequence[CodedCurve]) -> Picture | None:
    """Predicted against measured rise of the loss; None where nothing was measured."""
    planner = track.planner
    assert isinstance(planner, BytePlanner)
    own = [curve for curve in curves if curve.mode == track.mode and curve.points]
    if not own:
        return None
    figure = go.Figure([_measured(curve, planner) for curve in own])
    predicted = {percent: planner.measured(track.plan_at(percent)[1].loss or 0.0) for percent in track.percents}
    values = [value for trace in figure.data for value in (*trace.x, *trace.y) if value > 0]
    low, high = min(values, default=0.01) / 1.5, max(values, default=1.0) * 1.5
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    figure.add_trace(go.Scatter(x=[low, high], y=[low, high], mode="lines", name="as predicted", line=line))
    ring = {"symbol": "circle-open", "size": 14, "color": "#2b7bd9", "line": {"width": 3}}
    here = go.Scatter(x=[low], y=[low], mode="markers", name="this size", marker=ring, hoverinfo="skip")
    figure.add_trace(here)
    ticks = [digit * 10.0**power for power in range(-9, 3) for digit in (1, 2, 5)]
    axis = {"type": "log", "range": [math.log10(low), math.log10(high)]}
    axis |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    laid_out(figure, axis | {"title": title("predicted, nats")}, axis | {"title": title("measured, nats")})
    last = len(figure.data) - 1
    frames: Any = {percent: [[last, {"x": [rise or None], "y": [rise or None]}]] for percent, rise in predicted.items()}
    return Picture("Predicted against measured loss", _FORETOLD, figure, frames)


def _measured(curve: CodedCurve, planner: BytePlanner) -> go.Scatter:
    points = [(planner.measured(p.predicted), math.log(p.perplexity / curve.base_perplexity)) for p in curve.points]
    shown = [(x, y) for x, y in points if x > 0 and y > 0]  # on logarithmic axes
    return go.Scatter(
        x=[x for x, _ in shown],
        y=[y for _, y in shown],
        mode="markers",
        name=corpus_title(curve.corpus),
        marker={"size": 8, "symbol": corpus_symbol(curve.corpus), "color": corpus_color(curve.corpus)},
        hovertemplate="%{x:.3g} predicted, %{y:.3g} measured<extra></extra>",
    )
