"""Benchmarks at several sizes, one curve per task."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from ..artifacts.task_results import TaskResult
from .canvas import laid_out, title
from .pictures import Picture

_METRICS = ("acc", "acc_norm", "exact_match")  # the first that a task has is drawn
_COLORS = ("#d9622b", "#2b7bd9", "#2f9e5b", "#8a5fd3", "#1f9fa8", "#c2417c", "#a0764d", "#7a7f87")
_NOTE = "Accuracy by lm-eval on the elastic model, with its standard error. Click a name to hide its line."


def task_pictures(results: Sequence[TaskResult]) -> list[Picture]:
    """One picture of all tasks that are measured by accuracy; none where there are none."""
    figure = go.Figure()
    for index, task in enumerate(dict.fromkeys(r.task for r in results)):
        metric = next((m for m in _METRICS if any((r.task, r.metric) == (task, m) for r in results)), None)
        points = sorted((r for r in results if (r.task, r.metric) == (task, metric)), key=lambda r: r.ratio)
        full = {r.ratio: r for r in sorted(points, key=lambda r: r.limit or 10**9)}  # all examples rather than some
        if full:
            figure.add_trace(_line(task, list(full.values()), _COLORS[index % len(_COLORS)]))
    if not figure.data:
        return []
    x = {"title": title("size of the compressed layers, %"), "dtick": 10}
    y = {"title": title("accuracy, %"), "rangemode": "tozero"}
    legend = {"orientation": "h", "x": 0, "y": -0.16, "yanchor": "top", "font": {"size": 11}}
    return [Picture("Benchmarks", _NOTE, laid_out(figure, x, y).update_layout(legend=legend, height=460))]


def _line(task: str, points: list[TaskResult], color: str) -> go.Scatter:
    limit = next((f", first {r.limit} examples" for r in points if r.limit), "")
    return go.Scatter(
        x=[100 * r.ratio for r in points],
        y=[100 * r.value for r in points],
        error_y={"type": "data", "array": [100 * (r.error or 0) for r in points], "thickness": 1, "width": 3},
        name=task,
        mode="lines+markers",
        line={"color": color, "width": 2},
        marker={"size": 6},
        hovertemplate=f"{task}{limit}<br>%{{x:.0f}} %: %{{y:.1f}} %<extra></extra>",
    )
