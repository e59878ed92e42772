"""The perplexity-versus-size figure; the browser adds the slider's position and what the visitor measures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from ..evaluation.curves import Curve, CurvePoint, primary_curves
from ..evaluation.methods import (
    corpus_color,
    corpus_meaning,
    corpus_symbol,
    corpus_title,
    method_of,
    relative_meaning,
    relative_title,
)
from .canvas import SOURCE_MEANING, band, spread, spread_words

_PRECISION_DASHES = {"int8": "12px,2px", "int4": "4px,2px"}
_OTHER_COLOR = "#7a7f87"
_TICKS = [digit * 10**power for power in range(8) for digit in (1, 2, 5)]  # those in the frame are drawn
_FRAME = 30  # the axis ends at this multiple of the base perplexity; comparison lines may leave the frame


def curve_figure(
    curves: Sequence[Curve],
    smallest_percent: int,
    base_bytes: int | None = None,
    source: int | None = None,
    others: bool = True,
) -> dict[str, Any]:
    """The figure as plain JSON values, without colors of the page's theme, which the browser fills in.

    `meta` of a trace says in a sentence what it shows.

    Args:
        base_bytes: of the full model, where another axis may show them.
        source: bytes of the one file that the model was read from, for an axis of bytes.
        others: with the curves of other methods, too.
    """
    figure = go.Figure()
    own = primary_curves(curves)
    for curve in curves if others else own:
        if curve.points:
            figure.add_trace(_line(curve, curve in own, relative_title(curve.method, curves[0].method)))
    for curve in own:
        figure.add_traces(_band(curve))
    for method in dict.fromkeys(curve.method for curve in curves if others and curve not in own):
        figure.add_trace(_legend_entry(method, curves[0].method))
    for curve in own:
        figure.add_trace(_base_mark(curve, base_bytes))
    if source is not None and own:
        figure.add_trace(_source_mark(own, source))
    figure.update_layout(_layout(curves, smallest_percent, _FRAME if others else 1), template="none")
    return json.loads(figure.to_json())


def _line(curve: Curve, own: bool, title: str) -> go.Scatter:
    """One curve; `title` is what its method is called where it is not the model's own."""
    points = _ordered(curve)
    name = corpus_title(curve.corpus)
    if not own:
        name += f", {title}"
    hover = "%{customdata[1]:.0f} % · %{customdata[0]:.0f} MB<br>perplexity %{y:.4g}%{text}<extra></extra>"
    return go.Scatter(
        x=[100 * point.ratio for point in points],
        y=[point.perplexity for point in points],
        customdata=[[p.bytes / 1e6, 100 * p.ratio, spread(p.error)] for p in points],  # another axis may show them
        text=[spread_words(point.error) for point in points],
        name=name,
        meta=corpus_meaning(curve.corpus, bool(_band(curve))),
        legendgroup=curve.corpus if own else curve.method,
        showlegend=own,
        mode="lines+markers" if own else "lines",
        line={
            "color": corpus_color(curve.corpus),
            "width": 3 if own else 1.5,
            "dash": "solid" if own else _dash(curve.method, title),
        },
        marker={"size": 6, "symbol": corpus_symbol(curve.corpus)},
        opacity=1.0 if own else 0.65,
        hovertemplate=f"{name}<br>{hover}",
    )


def _band(curve: Curve) -> list[go.Scatter]:
    points = _ordered(curve)
    return band(
        [100 * point.ratio for point in points],
        [point.perplexity for point in points],
        [point.error for point in points],
        corpus_color(curve.corpus),
        customdata=[[point.bytes / 1e6] for point in (*points, *reversed(points))],
        name=corpus_title(curve.corpus),
        legendgroup=curve.corpus,
    )


def _ordered(curve: Curve) -> list[CurvePoint]:
    return sorted(curve.points, key=lambda point: point.ratio)


def _legend_entry(method: str, own: str) -> go.Scatter:
    """One entry for a method's lines on all corpora; clicking it hides them."""
    title = relative_title(method, own)
    line = {"color": _OTHER_COLOR, "width": 1.5, "dash": _dash(method, title)}
    meaning = relative_meaning(method, own)
    return go.Scatter(x=[None], y=[None], name=title, meta=meaning, legendgroup=method, mode="lines", line=line)


def _dash(method: str, title: str) -> str:
    if title in _PRECISION_DASHES:
        return _PRECISION_DASHES[title]
    return "longdash" if "+adapters" in method else method_of(method).dash


def _base_mark(curve: Curve, base_bytes: int | None) -> go.Scatter:
    title = corpus_title(curve.corpus)
    return go.Scatter(
        x=[100],
        y=[curve.base_perplexity],
        customdata=None if base_bytes is None else [[base_bytes / 1e6]],
        name=f"{title}, full model",
        mode="markers",
        marker={"symbol": "diamond", "size": 11, "color": corpus_color(curve.corpus)},
        showlegend=False,
        hovertemplate=f"{title}, full model<br>perplexity %{{y:.4g}}<extra></extra>",
    )


def _source_mark(own: Sequence[Curve], source: int) -> go.Scatter:
    """At no share of directions: it has a place on an axis of bytes alone, where it is as good as the full model."""
    name = f"the source file, {source / 1e6:.1f} MB"
    return go.Scatter(
        x=[None] * len(own),
        y=[curve.base_perplexity for curve in own],
        customdata=[[source / 1e6]] * len(own),
        name=name,
        meta=SOURCE_MEANING,
        mode="markers",
        marker={"symbol": "diamond-open", "size": 11, "color": _OTHER_COLOR, "line": {"width": 2}},
        hovertemplate=f"{name}<br>perplexity %{{y:.4g}}<extra></extra>",
    )


def _layout(curves: Sequence[Curve], smallest_percent: int, frame: int) -> dict[str, Any]:
    return {
        "xaxis": {
            "title": {"text": "size of the compressed layers, %", "standoff": 8, "font": {"size": 12}},
            "range": [smallest_percent - 2, 102],
            "dtick": 10,
            "fixedrange": True,
            "zeroline": False,
        },
        "yaxis": {
            "type": "log",
            "title": {"text": "perplexity, lower is better", "standoff": 6, "font": {"size": 12}},
            "range": _visible_range(curves, frame),
            "fixedrange": True,
            "zeroline": False,
            "tickvals": _TICKS,
            "ticktext": [f"{tick:,}" for tick in _TICKS],
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "tracegroupgap": 0,
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 11},
        },
        "margin": {"l": 58, "r": 12, "t": 8, "b": 44},
        "hovermode": "closest",
        "dragmode": False,
        "font": {"size": 12, "family": "system-ui, sans-serif"},
    }


def _visible_range(curves: Sequence[Curve], frame: int) -> list[float]:
    """Logarithms (base 10) of the axis ends: all of the own curves, comparison lines as far as they fit."""
    own = primary_curves(curves)
    bases = [curve.base_perplexity for curve in curves]
    if not bases:
        return [0, 3]
    highest_own = max((point.perplexity for curve in own for point in curve.points), default=1.0)
    top = max(frame * min(bases), 1.5 * max(bases), 1.3 * min(highest_own, 1000 * max(bases)))
    return [math.log10(0.8 * min(bases)), math.log10(top)]
