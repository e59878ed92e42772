"""How an artifact was made, in pictures: score maps, and what its history tells. Knows nothing of gradio.

Colors of the theme around a figure are filled in by `assets/js/figures.js`, the rest is readable on light and dark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from ..artifacts.artifact import Artifact
from ..errors import ArtifactError
from ..model.size_planner import DENSE, SizePlanner
from .canvas import color_bar, laid_out, title
from .history import training_figures, trajectories_figure

_KEPT = ("rgba(217,98,43,0.04)", "rgba(217,98,43,0.45)", "rgba(196,66,16,1)")  # fades into the background
_USUAL_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # others follow
_MOST_ROWS = 100
_MOST_CELLS = 12_000

_MAP_NOTE = (
    "Every column is a layer of this type, its directions sorted by score; the color says where a direction stands "
    "among all directions of the model: the fuller it is, the longer the direction stays."
)
_TRAJECTORIES_NOTE = (
    "Mask values of a fixed sample of directions during the pruning run: one that reaches zero is pruned for good, "
    "and the order in which they arrive is the score map."
)
_TRAINING_NOTES = {
    "Size while pruning": "Share of the compressed layers' parameters that the pruning run had left after each step.",
    "Loss while pruning": "Training loss of the pruning run (gray: each step, orange: running mean), held down by "
    "adapters while directions go.",
    "Penalty while pruning": "The weight λ of the penalty on the masks, which grows until the target size is reached.",
    "Factor training": "Divergence from the full model at each training step of the factors, the mean of two sizes, "
    "colored by theirs; the line is a running mean.",
    "Adapter training": "Loss of each adapter training step, colored by the random size it was taken at; the line is "
    "a running mean.",
    "Adapter refining": "Divergence from the full model while the adapters are trained further on its predictions "
    "alone, colored by the mean size of each step; the line is a running mean.",
}


@dataclass(frozen=True)
class Picture:
    """A figure with what a reader needs to understand it.

    Attributes:
        note: a sentence or two below it.
        frames: what of it moves with the slider: per percentage, traces' indices and their new values.
        choices: what of it can be looked at alone: by name, the indices of its traces; the first is all.
    """

    title: str
    note: str
    figure: go.Figure
    frames: Mapping[int, Any] | None = None
    choices: Mapping[str, list[int]] | None = None


def numbered(steps: Sequence[Picture]) -> list[Picture]:
    """Pictures whose titles say their order."""
    return [replace(step, title=f"{number}. {step.title}") for number, step in enumerate(steps, 1)]


def gallery(pictures: Iterable[Picture]) -> list[dict[str, Any]]:
    """Pictures as plain JSON values, as `assets/js/figures.js` takes them."""
    return [
        {"title": p.title, "note": p.note, "figure": json.loads(p.figure.to_json())}
        | ({"frames": {str(percent): frame for percent, frame in p.frames.items()}} if p.frames else {})
        | ({"choices": list(p.choices.items())} if p.choices else {})
        for p in pictures
    ]


def score_map_pictures(artifact: Artifact) -> dict[str, Picture]:
    """The picture of every layer type.

    Raises:
        ArtifactError: as `score_map_figures`.
    """
    figures = score_map_figures(artifact)
    return {kind: Picture(f"Score map, {kind}", _MAP_NOTE, figure) for kind, figure in figures.items()}


def history_pictures(history: Mapping[str, torch.Tensor], names: Iterable[str] = ()) -> list[Picture]:
    """All pictures that an artifact's history allows, in the order of the run.

    Args:
        names: of the artifact's layers.

    Raises:
        ArtifactError: an entry does not have the expected shape.
    """
    trajectories = trajectories_figure(history, sorted(names))
    pictures = []
    if trajectories:
        choices = _by_layer(trajectories)
        pictures.append(Picture("Masks while pruning", _TRAJECTORIES_NOTE, trajectories, choices=choices))
    return pictures + [Picture(t, _TRAINING_NOTES[t], figure) for t, figure in training_figures(history).items()]


def _by_layer(trajectories: go.Figure) -> dict[str, list[int]] | None:
    """The traces of every layer of the sample; those without a layer belong to all."""
    groups = [trace.legendgroup or "" for trace in trajectories.data]
    layers = sorted({group for group in groups if group}, key=_natural)
    shared = [i for i, group in enumerate(groups) if not group]
    chosen = {layer: shared + [i for i, group in enumerate(groups) if group == layer] for layer in layers}
    return {f"all {len(layers)} layers of the sample": list(range(len(groups)))} | chosen if len(layers) > 1 else None


def score_map_figures(artifact: Artifact) -> dict[str, go.Figure]:
    """One heat map per layer type (last component of a layer's name), by depth and by direction within the layer.

    Colored by the global rank quantile, 0 to 1, because scores of different methods have different units. Where the
    artifact tells the shapes of layers, hovering also tells down to which size a direction is kept.

    Raises:
        ArtifactError: there are no scores, or adapters do not fit them.

    Reference: figures A16 and A17 of arXiv 2502.01717.
    """
    quantiles = _quantiles(artifact.scores)
    ranks = _ranks_by_percent(artifact)
    return {kind: _score_map(names, quantiles, ranks) for kind, names in layer_types(artifact).items()}


def layer_types(artifact: Artifact) -> dict[str, list[str]]:
    """Names of the layers of each type, by depth; the type is the last component of a name."""
    kinds: dict[str, list[str]] = {kind: [] for kind in _USUAL_ORDER}
    for name in sorted(artifact.scores, key=_natural):
        kinds.setdefault(name.rpartition(".")[2], []).append(name)
    return {kind: names for kind, names in kinds.items() if names}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 10 behind layer 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def _quantiles(scores: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Each layer's global rank quantiles (r,), largest first; equal scores share one."""
    if not any(len(score) for score in scores.values()):
        raise ArtifactError("scores.safetensors holds no scores; restore the file.")
    flat = torch.cat(list(scores.values())).numpy()
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2  # of the places that a value takes
    quantile = (middle / max(1, len(flat) - 1))[inverse].astype(np.float32)
    ends = np.cumsum([len(score) for score in scores.values()])
    parts = np.split(quantile, ends[:-1])
    return {name: np.sort(part)[::-1] for name, part in zip(scores, parts, strict=True)}


def _shapes(artifact: Artifact) -> dict[str, tuple[int, int]] | None:
    """(out_features, in_features) of every layer, as far as the artifact tells: by its moments, or by its adapters."""
    if (gradients := artifact.gradients) is not None:
        return {name: (len(gradients[name].scale), len(artifact.basis[name].scale)) for name in artifact.scores}
    if (adapters := artifact.adapters) is not None:
        return {name: (adapters[name].b.shape[0], adapters[name].a.shape[1]) for name in artifact.scores}
    return None


def _ranks_by_percent(artifact: Artifact) -> dict[str, np.ndarray] | None:
    """Directions of each layer that are there at 0, 1 … 100 % (101,); None when the shapes are not in the artifact."""
    if (shapes := _shapes(artifact)) is None:
        return None
    lengths = np.array([len(score) for score in artifact.scores.values()])
    for (name, shape), length in zip(shapes.items(), lengths, strict=True):
        if min(shape) != length:
            raise ArtifactError(f"The matrices of '{name}' do not fit its {length} scores; restore the artifact.")
    adapters = artifact.adapters or {}
    adapter_rank = max((adapter.a.shape[0] for adapter in adapters.values()), default=0)
    scores = {name: score.numpy() for name, score in artifact.scores.items()}
    planner = SizePlanner(shapes, scores, adapter_rank, pivoted=artifact.pivoted)
    table = np.zeros((101, len(lengths)), dtype=np.int64)
    for percent in range(1, 101):
        if percent * planner.base_target_parameters >= 100 * planner.smallest:
            ranks = np.array(planner.at_ratio(percent / 100).ranks)
            table[percent] = np.where(ranks == DENSE, lengths, ranks)
    return dict(zip(artifact.scores, table.T, strict=True))


def _score_map(names: list[str], quantiles: dict[str, np.ndarray], ranks: dict[str, np.ndarray] | None) -> go.Figure:
    longest = max(len(quantiles[name]) for name in names)
    rows = max(1, min(_MOST_ROWS, longest, max(4, _MOST_CELLS // len(names))))
    z = np.full((rows, len(names)), np.nan, dtype=np.float32)
    customdata = np.zeros((rows, len(names), 3), dtype=np.int32)  # first and last direction, smallest size in %
    for column, name in enumerate(names):
        length = len(quantiles[name])
        if not length:
            continue
        first = np.arange(rows) * length // rows
        last = np.maximum(np.arange(1, rows + 1) * length // rows, first + 1)
        sums = np.concatenate([[0], np.cumsum(quantiles[name], dtype=np.float64)])
        z[:, column] = np.minimum.accumulate(((sums[last] - sums[first]) / (last - first)).astype(np.float32)).clip(
            0, 1
        )
        customdata[:, column, 0], customdata[:, column, 1] = first + 1, last
        if ranks is not None:
            customdata[:, column, 2] = np.searchsorted(ranks[name], last).clip(max=100)
    blocks = [int(digits[0]) if (digits := re.findall(r"(?<!\w)\d{1,6}(?!\w)", name)) else -1 for name in names]
    numbered = len(set(blocks)) == len(blocks) and min(blocks) >= 0
    figure = go.Figure(
        go.Heatmap(
            x=blocks if numbered else [escape(name) for name in names],
            y=(np.arange(rows) + 0.5) * 100 / rows,
            z=z,
            zmin=0,
            zmax=1,
            customdata=customdata,
            colorscale=list(_KEPT),
            colorbar=color_bar("first to go", "kept longest"),
            hovertemplate=_map_hover(escape(names[0].rpartition(".")[2]), numbered, ranks is not None),
        )
    )
    depth = {
        "title": title("decoder block"),
        "type": "linear",
        "dtick": 1 if len(names) <= 12 else 5 if len(names) <= 60 else 10,
    }
    named: dict[str, Any] = {"title": title("layer, by depth"), "type": "category", "showticklabels": False}
    percent = {"title": title("directions of the layer, best first, %"), "dtick": 20, "range": [0, 100]}
    return laid_out(figure, {"showgrid": False} | (depth if numbered else named), {"showgrid": False} | percent)


def _map_hover(kind: str, numbered: bool, sized: bool) -> str:
    lines = [f"{kind}, block %{{x}}" if numbered else "%{x}", "directions %{customdata[0]}–%{customdata[1]}"]
    lines.append("ahead of %{z:.0%} of all directions")
    lines += ["kept down to a size of %{customdata[2]} %"] if sized else []
    return "<br>".join(lines) + "<extra></extra>"
