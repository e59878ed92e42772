"""Perplexity ÷ the full model's against megabytes, for the modes that spend bits.

Each trace has its own bytes. Measured points are joined by lines, what was predicted is dashed, and the file that the
model was read from is a mark.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ..artifacts.coding import CodedCurve, CodedPoint
from ..artifacts.peers import Peers
from ..evaluation.methods import corpus_color, corpus_meaning, corpus_symbol, corpus_title
from ..model.base_model import BaseModel, embedded_gguf
from ..model.byte_planner import BytePlanner
from ..model.tracks import Track
from .canvas import MUTED, SOURCE_MEANING, band, spread, spread_words
from .peer_lines import HIGHEST, peer_lines

_TICKS, _COARSE = (1, 1.05, 1.1, 1.2, 1.5, 2, 3, 5), (1, 1.2, 1.5, 2, 3, 5)
_ENTRY = 0.49  # of a legend of many: two columns on a phone too
_POINTS = 60  # of the predicted line


def source_file_bytes(base: BaseModel) -> int | None:
    """Length of the one file that a quantized model was read from; None where there is no such file."""
    embedded = embedded_gguf()
    places = [Path(base.source), *([embedded] if embedded is not None and embedded.stem == base.source else [])]
    return next((place.stat().st_size for place in places if place.suffix == ".gguf" and place.is_file()), None)


def byte_figure(
    track: Track, curves: Sequence[CodedCurve], source: int | None, peers: Peers | None = None
) -> dict[str, Any]:
    """The figure as plain JSON values, without colors of the page's theme, which the browser fills in.

    `meta` of a trace says in a sentence what it shows.

    Args:
        source: as `source_file_bytes`.
        peers: other quantizers, a line for each of them at its own bytes.
    """
    planner = track.planner
    assert isinstance(planner, BytePlanner)
    own = [curve for curve in curves if curve.mode == track.mode and curve.points]
    low, high = track.plan_at(track.percents[0])[1].bytes / 1e6, planner.base_bytes / 1e6
    figure = go.Figure([_predicted(planner, low * 1e6), *(_measured(curve, planner) for curve in own)])
    for curve in own:
        figure.add_traces(_band(curve))
    if peers is not None:
        figure.add_traces(peer_lines(peers, planner.base_bytes))
    if planner.largest < planner.base_bytes:
        figure.add_trace(_original(planner))
    ratios = [y for trace in figure.data for y in trace.y if y is not None]
    top = min(HIGHEST, max(1.2, 1.05 * max(ratios)))
    if source is not None:
        figure.add_trace(_source_mark(source, top))
    figure.update_layout(_layout(low, high, top), template="none")
    if peers is not None:
        figure.update_layout(legend={"entrywidth": _ENTRY, "entrywidthmode": "fraction"})
    return json.loads(figure.to_json())


def _predicted(planner: BytePlanner, low: float) -> go.Scatter:
    high = max(planner.largest, low + 1)
    sizes = [low * (high / low) ** (i / (_POINTS - 1)) for i in range(_POINTS)]
    plans = [planner.at_bytes(max(size, planner.smallest)) for size in sizes]
    return _line(
        [(plan.bytes, math.exp(min(planner.measured(plan.loss or 0.0), 50.0)), None) for plan in plans],
        planner,
        name="predicted",
        meta="What a size should lose by the errors of its codes, calibrated on three sizes of validation text.",
        mode="lines",
        line={"color": MUTED, "width": 1.5, "dash": "dash"},
    )


def _measured(curve: CodedCurve, planner: BytePlanner) -> go.Scatter:
    points = _ordered(curve)
    color = corpus_color(curve.corpus)
    return _line(
        [(point.bytes, point.perplexity / curve.base_perplexity, point.error) for point in points],
        planner,
        name=corpus_title(curve.corpus),
        meta=corpus_meaning(curve.corpus, bool(_band(curve))),
        legendgroup=curve.corpus,
        mode="lines+markers",
        line={"color": color, "width": 3},
        marker={"size": 6, "symbol": corpus_symbol(curve.corpus)},
    )


def _band(curve: CodedCurve) -> list[go.Scatter]:
    points = _ordered(curve)
    return band(
        [point.bytes / 1e6 for point in points],
        [point.perplexity / curve.base_perplexity for point in points],
        [point.error for point in points],
        corpus_color(curve.corpus),
        name=corpus_title(curve.corpus),
        legendgroup=curve.corpus,
    )


def _ordered(curve: CodedCurve) -> list[CodedPoint]:
    return sorted(curve.points, key=lambda point: point.bytes)


def _line(
    points: Sequence[tuple[float, float, float | None]], planner: BytePlanner, name: str, **options: Any
) -> go.Scatter:
    """Bytes, perplexity ÷ the full model's and the standard error of its logarithm."""
    return go.Scatter(
        x=[size / 1e6 for size, _, _ in points],
        y=[ratio for _, ratio, _ in points],
        customdata=[[size / 1e6, 100 * size / planner.base_bytes, spread(error)] for size, _, error in points],
        text=[spread_words(error) for _, _, error in points],
        name=name,
        hovertemplate=f"{name}<br>%{{customdata[0]:.1f}} MB · %{{customdata[1]:.1f}} %<br>%{{y:.4g}} ×%{{text}} "
        "the full model's perplexity<extra></extra>",
        **options,
    )


def _original(planner: BytePlanner) -> go.Scatter:
    """As good as itself, at every size that loses nothing."""
    least = f"{planner.largest / 1e6:.1f} MB"
    return _line(
        [(planner.largest, 1.0, None), (planner.base_bytes, 1.0, None)],
        planner,
        name="the original",
        meta=f"The model as published. From {least} on nothing of it is lost: its weights fit into that.",
        mode="lines+markers",
        line={"color": MUTED, "width": 1.5},
        marker={"symbol": "diamond", "size": [0, 11]},
    )


def _source_mark(source: int, top: float) -> go.Scatter:
    name = f"the source file, {source / 1e6:.1f} MB"
    line = {"color": MUTED, "width": 1.5, "dash": "dot"}
    x, y = [source / 1e6] * 2, [0.9, 2 * top]
    hover = f"{name}<extra></extra>"
    return go.Scatter(x=x, y=y, name=name, meta=SOURCE_MEANING, mode="lines", line=line, hovertemplate=hover)


def _layout(low: float, high: float, top: float) -> dict[str, Any]:
    round_ones = [digit * 10.0**power for power in range(-3, 7) for digit in (1, 1.5, 2, 3, 4, 5, 7)]
    ticks = [*(tick for tick in round_ones if low <= tick <= 0.9 * high), high]
    shown = [tick for tick in _TICKS if top < 2 or tick in _COARSE]
    fixed = {"type": "log", "fixedrange": True, "zeroline": False}
    return {
        "xaxis": {
            **fixed,
            "title": {"text": "size of the whole model, MB", "standoff": 8, "font": {"size": 12}},
            "range": [math.log10(low / 1.03), math.log10(high * 1.03)],
            "tickvals": ticks,
            "ticktext": [f"{tick:.3g}" for tick in ticks],
        },
        "yaxis": {
            **fixed,
            "title": {"text": "perplexity ÷ the original's, lower is better", "standoff": 6, "font": {"size": 12}},
            "range": [math.log10(0.98), math.log10(top)],
            "tickvals": shown,
            "ticktext": [f"{tick:g} ×" for tick in shown],
        },
        "legend": {
            "orientation": "h", "x": 0, "xref": "container", "tracegroupgap": 0, "y": 1, "yref": "container",
            "yanchor": "top", "font": {"size": 11},
        },
        "margin": {"l": 70, "r": 12, "t": 8, "b": 44},
        "hovermode": "closest",
        "dragmode": False,
        "font": {"size": 12, "family": "system-ui, sans-serif"},
    }  # fmt: skip
