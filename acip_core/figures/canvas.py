"""What the pictures of an artifact have in common with the chart beside them: fonts, margins, backgrounds."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

MUTED = "#7a7f87"


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


def title(text: str) -> dict[str, Any]:
    """An axis title."""
    return {"text": text, "font": {"size": 12}}


def color_bar(low: str, high: str) -> dict[str, Any]:
    """A color bar above the plot, with words for its ends."""
    return {
        "orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom", "len": 0.5, "thickness": 8,
        "title": {"text": f"{low} → {high}", "side": "top", "font": {"size": 11}}, "showticklabels": False,
        "ticks": "", "outlinewidth": 0, "xpad": 0, "ypad": 6,
    }  # fmt: skip
