"""Other quantizers against megabytes: lines for the page's chart, and the picture of the documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from ..artifacts.coding import CodedCurve
from ..artifacts.peers import Peers, PeerSize, frontier, peer_sizes
from ..evaluation.methods import method
from .canvas import laid_out, title

HIGHEST = 6.0  # × base; what is worse leaves the frame
_OWN_COLOR = "#d9622b"
_TICKS = (1, 1.1, 1.2, 1.5, 2, 3, 5)
_MEGABYTES = (40, 50, 60, 70, 80, 90, 100)


def peer_lines(peers: Peers, published: float) -> list[go.Scatter]:
    """A line for each method: perplexity ÷ base of the worse corpus against megabytes, at its own bytes.

    A line joins what no other setting of its method beats; the others are points.

    Args:
        published: bytes of the model as published, for shares.
    """
    sizes = peer_sizes(peers)
    return [_line([s for s in sizes if s.method == name], published) for name in dict.fromkeys(s.method for s in sizes)]


def _line(sizes: Sequence[PeerSize], published: float) -> go.Scatter:
    """One trace: the frontier, then, behind gaps, what lies above it."""
    joined = frontier(sizes)
    points: list[PeerSize | None] = [*joined]
    for size in sizes:
        points += [None, size] if size not in joined else []
    known, name = method(sizes[0].method), method(sizes[0].method).title
    return go.Scatter(
        x=[None if s is None else s.bytes / 1e6 for s in points],
        y=[None if s is None else s.worst for s in points],
        customdata=[[None] * 2 if s is None else [s.bytes / 1e6, 100 * s.bytes / published] for s in points],
        text=["" if s is None else s.setting for s in points],
        name=name,
        meta=f"{known.description} Measured on the same model and text, the worse corpus.",
        mode="lines+markers",
        line={"color": known.color, "width": 1.5, "dash": known.dash},
        marker={"size": 6, "symbol": "diamond", "color": known.color},
        hovertemplate=f"{name}, %{{text}}<br>%{{customdata[0]:.1f}} MB · %{{customdata[1]:.1f}} %<br>"
        "%{y:.4g} × the full model's perplexity, the worse corpus<extra></extra>",
    )


def peers_figure(peers: Peers, own: Sequence[CodedCurve]) -> go.Figure:
    """The documents' picture: this project's sizes beside those of all others, the worse corpus of each.

    Args:
        own: measured curves of one mode, one for each corpus.
    """
    figure = go.Figure(peer_lines(peers, own[0].points[0].bytes / own[0].points[0].ratio))
    sizes = [
        (points[0].bytes / 1e6, max(p.perplexity / c.base_perplexity for p, c in zip(points, own, strict=True)))
        for points in zip(*(curve.points for curve in own), strict=True)
    ]
    figure.add_trace(
        go.Scatter(
            x=[size for size, _ in sizes],
            y=[worst for _, worst in sizes],
            name="this project",
            mode="lines+markers",
            line={"color": _OWN_COLOR, "width": 3.5},
            marker={"size": 7},
        )
    )
    ratios = [y for trace in figure.data for y in trace.y if y is not None]
    top = min(HIGHEST, 1.1 * max(ratios))
    x, y = (_logarithmic(low, high) for low, high in ((36, 103), (0.985, top)))
    x |= {"title": title("size of the whole model, MB"), "tickvals": _MEGABYTES}
    y |= {"title": title("perplexity ÷ full model, the worse corpus"), "tickvals": _TICKS}
    return laid_out(figure, x, y | {"ticktext": [f"{tick:g} ×" for tick in _TICKS]})


def _logarithmic(low: float, high: float) -> dict[str, Any]:
    return {"type": "log", "range": [math.log10(low), math.log10(high)]}
