"""All methods of a comparison in one figure."""

from __future__ import annotations

import plotly.graph_objects as go

from ..artifacts.comparison import Comparison, worst_relative
from ..evaluation.methods import method as registered
from ..evaluation.methods import method_title
from .canvas import laid_out, title
from .pictures import Picture

_HIGHEST = 50  # × base; what is worse leaves the frame
_TICKS = (1, 1.5, 2, 3, 5, 10, 20, 50)
_NOTE = (
    "Perplexity on held-out text relative to the full model, the worse of both corpora, at sizes that count adapters. "
    "Dashed: cut alone. Solid: with adapters or with weights that were trained, on the same number of tokens for every "
    "method but this project's artifact, which was trained for longer. Click a name to hide its line."
)


def comparison_picture(comparison: Comparison) -> Picture:
    """Perplexity ÷ base against size, one line per method with and without adapters."""
    return Picture("Against other methods", _NOTE, comparison_figure(comparison))


def comparison_figure(comparison: Comparison) -> go.Figure:
    """The picture's figure; a method that always leaves the frame keeps its entry in the legend."""
    figure = go.Figure()
    for method, adapters in dict.fromkeys((r.method, r.adapters) for r in comparison.results):
        relative = worst_relative(comparison, method, adapters)
        name, trained = method_title(method, adapters), adapters or registered(method).trained
        figure.add_trace(
            go.Scatter(
                x=[100 * ratio for ratio in relative],
                y=list(relative.values()),
                name=name,
                mode="lines+markers" if trained else "lines",
                line={
                    "color": registered(method).color,
                    "width": 3.5 if method == "artifact" else 1.8,
                    "dash": "solid" if trained else "dash",
                },
                marker={"size": 5},
                hovertemplate=f"{name}<br>%{{x:.0f}} %: %{{y:.3g}} ×<extra></extra>",
            )
        )
    x = {"title": title("size of the compressed layers, %"), "dtick": 10}
    ticks = {"tickvals": _TICKS, "ticktext": [f"{tick:g} ×" for tick in _TICKS]}
    y = {"title": title("perplexity ÷ full model"), "type": "log", "range": [-0.04, 1.7]} | ticks
    legend = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "font": {"size": 11}}
    return laid_out(figure, x, y).update_layout(legend=legend, height=520)
