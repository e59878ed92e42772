"""What the pictures of an artifact have in common with the chart beside them: fonts, margins, backgrounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

MUTED = "#7a7f87"
SOURCE_MEANING = "The file that the model was read from. What it holds is the original here, so it loses nothing."
_TYPES = ("#d9622b", "#2b7bd9", "#2f9e5b", "#8a5cc9", "#c2417f", "#0f8f9e", "#9a7b12")
_MOST_POINTS = 150  # of one line
_ERRORS = 2  # standard errors to either side of a line: 95 of 100 such bands hold the true value


def laid_out(figure: go.Figure, x: dict[str, Any], y: dict[str, Any]) -> go.Figure:
    """A figure with these axes in the page's look."""
    fixed = {"fixedrange": True, "zeroline": False}
    return figure.update_layout(
        xaxis=fixed | {"automargin": True} | x,
        yaxis=fixed | {"automargin": True} | y,
        margin={"l": 52, "r": 16, "t": 8, "b": 44},
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top", "font": {"size": 11}},
        hovermode="closest",
        dragmode=False,
        font={"size": 12, "family": "system-ui, sans-serif"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        template="none",
    )


def thinned(count: int) -> np.ndarray:
    """Indices of at most `_MOST_POINTS` of so many points, the ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(int))


def type_colors(count: int) -> list[str]:
    """A color for each of so many types of layers."""
    return [_TYPES[i % len(_TYPES)] for i in range(count)]


def title(text: str) -> dict[str, Any]:
    """An axis title."""
    return {"text": text, "font": {"size": 12}}


def spread(error: float | None) -> float | None:
    """Percent that a perplexity may be off whose logarithm has this standard error; None where it is not known."""
    return None if error is None else 100 * math.expm1(_ERRORS * error)


def spread_words(error: float | None) -> str:
    """The same, to follow the perplexity."""
    return f" ± {spread(error):.2g} %" if error else ""


def band(
    x: Sequence[float], y: Sequence[float], errors: Sequence[float | None], color: str, **options: Any
) -> list[go.Scatter]:
    """What lies within the error of a line of perplexities; nothing where it is not known of every point.

    Args:
        x, y: of the line's points, in order.
        errors: standard errors of their logarithms.
        color: of the line, as #rrggbb.
    """
    known = [error for error in errors if error is not None]
    if len(known) < len(errors) or not any(known):
        return []
    factors = [math.exp(_ERRORS * error) for error in known]
    low = [value / factor for value, factor in zip(y, factors, strict=True)]
    high = [value * factor for value, factor in zip(y, factors, strict=True)]
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    outline = go.Scatter(
        x=[*x, *reversed(x)],
        y=[*low, *reversed(high)],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.25)",
        hoverinfo="skip",
        showlegend=False,
        **options,
    )
    return [outline]


def color_bar(low: str, high: str) -> dict[str, Any]:
    """A color bar above the plot, with words for its ends."""
    return {
        "orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom", "len": 0.5, "thickness": 8,
        "title": {"text": f"{low} → {high}", "side": "top", "font": {"size": 11}}, "showticklabels": False,
        "ticks": "", "outlinewidth": 0, "xpad": 0, "ypad": 6,
    }  # fmt: skip
