"""An artifact's history as plotly figures: masks, size and loss over the steps of its training.

Long series are thinned, so that no figure takes more than about 300 kB of JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from ..errors import ArtifactError
from ..evaluation.methods import corpus_color
from .canvas import MUTED, color_bar, laid_out, title

_ORANGE, _BLUE = corpus_color("c4"), corpus_color("wikipedia")
_GREEN = "#2f9e5b"
_WHEN = ("#f3c49b", _ORANGE, "#8f2f10")  # pruned first … last
_SIZES = (_ORANGE, "#b58fa6", _BLUE)
_PHASES = {"Factor training": "factors.", "Adapter training": "", "Adapter refining": "refining."}
_MOST_POINTS = 2_000  # of one line
_TRAJECTORY_VALUES = 36_000  # of all lines together
_MOST_LAYERS = 32  # to choose one from; a sample of more shows next to nothing of each
_TAIL_POINTS = 6  # of the muted part of a line, where a mask no longer moves


def trajectories_figure(history: Mapping[str, torch.Tensor], names: Sequence[str] = ()) -> go.Figure | None:
    """Mask values of the sampled directions over the pruning run; None when the artifact was made without one.

    Every trace of directions has its layer's name as `legendgroup`, where the sample shows enough of each layer.

    Args:
        history: `acip.trajectories` (steps, sample) and, for hovering, `acip.sample` (sample, 2), layer and direction,
            and `acip.places` (layers,), a layer's place among the sorted names.
        names: of the layers, sorted.

    Raises:
        ArtifactError: shapes do not fit each other.
    """
    values = _entry(history, "acip.trajectories", 2)
    if values is None or not values.size:
        return None
    steps, count = values.shape
    sample = _entry(history, "acip.sample", 2)
    if sample is not None and sample.shape != (count, 2):
        raise ArtifactError("history.safetensors: 'acip.sample' does not fit 'acip.trajectories'; restore the file.")
    values = values[:, : _TRAJECTORY_VALUES // 2]  # two points a line at least
    gone = values <= 0
    pruned_at = np.where(gone.any(axis=0), gone.argmax(axis=0), steps)  # step's index, `steps` for those left
    stride = max(1, -(-steps * values.shape[1] // _TRAJECTORY_VALUES))
    layers = _layer_names(history, sample, names)[: values.shape[1]] or [""] * values.shape[1]
    groups = layers if len(set(layers)) <= _MOST_LAYERS else [""] * len(layers)
    figure = go.Figure()
    for layer in dict.fromkeys(groups):
        in_layer = np.array([name == layer for name in groups])
        figure.add_trace(_tails(values[:, in_layer], pruned_at[in_layer]).update(legendgroup=layer))
    for i, at in enumerate(pruned_at.tolist()):
        end = steps if at == steps else min(steps, -(-at // stride) * stride + 1)  # through the zero line
        direction = f"direction {int(sample[i, 1])}" if sample is not None else f"direction {i}"
        name = f"{escape(layers[i])}, {direction}" if layers[i] else direction
        fate = "never pruned" if at == steps else f"pruned at step {at + 1}"
        color = _BLUE if at == steps else _shade(at / max(1, steps - 1))
        figure.add_trace(
            go.Scatter(
                x0=1,
                dx=stride,
                y=values[:end:stride, i],
                mode="lines",
                showlegend=False,
                legendgroup=groups[i],
                line={"color": color, "width": 1},
                opacity=0.75,
                hovertemplate=f"{name}<br>step %{{x}}: %{{y:.3g}}<br>{fate}<extra></extra>",
            )
        )
    figure.add_trace(_color_key(steps))
    if (pruned_at == steps).any():
        key = {"color": _BLUE, "width": 2}
        figure.add_trace(go.Scatter(x=[None], y=[None], name="never pruned", mode="lines", line=key, showlegend=True))
    x, y = {"title": title("step")}, {"title": title("mask value"), "zeroline": True, "zerolinecolor": MUTED}
    return laid_out(figure, x, y | {"zerolinewidth": 1.5})


def _layer_names(history: Mapping[str, torch.Tensor], sample: np.ndarray | None, names: Sequence[str]) -> list[str]:
    """The layer of each sampled direction."""
    if sample is None:
        return []
    layers = [int(layer) for layer in sample[:, 0]]
    places = _entry(history, "acip.places", 1)
    known = places is not None and len(places) == len(names)
    if places is None or not known or not all(0 <= layer < len(names) > places[layer] >= 0 for layer in layers):
        return [f"layer {layer}" for layer in layers]
    return [names[int(places[layer])] for layer in layers]


def _tails(values: np.ndarray, pruned_at: np.ndarray) -> go.Scatter:
    """Masks after they were pruned: one muted trace of all of them, in pieces."""
    steps = len(values)
    x: list[float | None] = []
    y: list[float | None] = []
    for i, at in enumerate(pruned_at.tolist()):
        if at < steps - 1:
            at_steps = np.unique(np.linspace(at, steps - 1, _TAIL_POINTS).astype(int))
            x += [*(at_steps + 1).tolist(), None]
            y += [*(float(f"{v:.4g}") for v in values[at_steps, i]), None]
    line = {"color": "rgba(122,127,135,0.3)", "width": 1}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _color_key(steps: int) -> go.Scatter:
    """A trace without points that carries the color bar."""
    bar = color_bar("pruned first", "last")
    marker: dict[str, Any] = {"color": [1], "cmin": 1, "cmax": max(2, steps), "colorscale": list(_WHEN)}
    marker |= {"colorbar": bar, "showscale": True}
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False, hoverinfo="skip")


def _shade(share: float) -> str:
    """The color of a share of the run, as the color bar shows it, in 32 steps."""
    at = round(share * 31) / 31
    low, high = _WHEN[:2] if at <= 0.5 else _WHEN[1:]
    weight = 2 * at if at <= 0.5 else 2 * at - 1
    channels = [(int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + weight * (b - a)):02x}" for a, b in channels)


def training_figures(history: Mapping[str, torch.Tensor]) -> dict[str, go.Figure]:
    """Curves over steps by title: size, loss and penalty of a pruning run, then the losses of training.

    Args:
        history: `acip.size`, `acip.loss` and `acip.lambda` (steps,); `loss` and `ratio` (steps,), also with
            `refining.` or `factors.` before. What is absent is left out.

    Raises:
        ArtifactError: an entry is not a vector, or `loss` and `ratio` have different lengths.
    """
    figures = {}
    size = _entry(history, "acip.size", 1)
    if size is not None:
        y: dict[str, Any] = {"title": title("size, %"), "rangemode": "tozero"}
        figures["Size while pruning"] = laid_out(go.Figure(_line(100 * size, _BLUE, "%{y:.1f} %")), _steps(), y)
    loss = _entry(history, "acip.loss", 1)
    if loss is not None:
        lines = [
            _line(loss, "rgba(122,127,135,0.5)", "%{y:.3f}", 1),
            _line(_running_mean(loss), _ORANGE, "mean %{y:.3f}"),
        ]
        figures["Loss while pruning"] = laid_out(go.Figure(lines), _steps(), {"title": title("nats per token")})
    penalty = _entry(history, "acip.lambda", 1)
    if penalty is not None:
        y = {"title": title("λ"), "type": "log", "tickformat": "~g", "dtick": 1}
        figures["Penalty while pruning"] = laid_out(go.Figure(_line(penalty, _ORANGE, "%{y:.3g}")), _steps(), y)
    for heading, phase in _PHASES.items():
        if (losses := _losses_figure(history, phase)) is not None:
            figures[heading] = losses
    return figures


def _losses_figure(history: Mapping[str, torch.Tensor], phase: str) -> go.Figure | None:
    loss, ratio = _entry(history, phase + "loss", 1), _entry(history, phase + "ratio", 1)
    if loss is None or ratio is None:
        return None
    if loss.shape != ratio.shape:
        raise ArtifactError(
            f"history.safetensors: '{phase}loss' and '{phase}ratio' have different lengths; restore the file."
        )
    chosen = _thinned(len(loss))
    bar = color_bar(f"size {ratio.min():.0%}", f"{ratio.max():.0%}")
    points = go.Scatter(
        x=chosen + 1,
        y=loss[chosen],
        customdata=ratio[chosen],
        mode="markers",
        marker={"size": 4, "opacity": 0.6, "color": ratio[chosen], "colorscale": list(_SIZES), "colorbar": bar},
        showlegend=False,
        hovertemplate="step %{x}<br>size %{customdata:.0%}<br>loss %{y:.3f}<extra></extra>",
    )
    figure = go.Figure([points, _line(_running_mean(loss), _GREEN, "mean %{y:.3f}", 2.5)])
    return laid_out(figure, _steps(), {"title": title("loss")})


def _entry(history: Mapping[str, torch.Tensor], name: str, dimensions: int) -> np.ndarray | None:
    """An entry as an array, None when it is absent or empty."""
    if name not in history or not history[name].numel():
        return None
    if history[name].ndim != dimensions:
        raise ArtifactError(f"history.safetensors: '{name}' has the wrong shape; restore the file.")
    return history[name].float().numpy()


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a twentieth of all steps, centered, narrower at the ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.float64)])
    at = np.arange(len(values))
    low, high = np.maximum(0, at - half), np.minimum(len(values), at + half + 1)
    return ((sums[high] - sums[low]) / (high - low)).astype(np.float32)


def _line(values: np.ndarray, color: str, shown: str, width: float = 2) -> go.Scatter:
    chosen = _thinned(len(values))
    line = {"color": color, "width": width}
    hover = f"step %{{x}}<br>{shown}<extra></extra>"
    return go.Scatter(x=chosen + 1, y=values[chosen], mode="lines", line=line, showlegend=False, hovertemplate=hover)


def _steps() -> dict[str, Any]:
    return {"title": title("step")}


def _thinned(count: int, most: int = _MOST_POINTS) -> np.ndarray:
    """At most `most` indices over all of `count`, first and last among them."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int32)
