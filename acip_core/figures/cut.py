"""The cut under the slider in pictures that move with it: where it runs through a score map, which ranks it keeps.

Knows nothing of gradio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import plotly.graph_objects as go

from ..model.size_planner import DENSE, SizePlanner
from ..model.tracks import LARGEST_PERCENT
from .canvas import laid_out, title
from .pictures import Picture

_LINE = {"color": "#2b7bd9", "width": 2, "shape": "hvh"}
_COLORS = ("rgba(43,123,217,0.06)", "rgba(43,123,217,0.85)")
_NOTE = (
    "Every cell is a layer; the fuller it is, the more of its directions are kept, against the rank from which on its "
    "original weight costs hardly more. From there on the layer runs that, which a dot marks."
)


class Cuts:
    """Ranks of all layers at every slider position.

    Args:
        lengths: directions of each layer, in the planner's order.
        smallest: the slider's lower end, in percent.
    """

    def __init__(self, planner: SizePlanner, lengths: Mapping[str, int], smallest: int):
        self._lengths = lengths
        self._break_even = dict(zip(lengths, planner.break_even, strict=True))
        plans = {percent: planner.at_ratio(percent / 100) for percent in range(smallest, LARGEST_PERCENT + 1)}
        self._ranks = {percent: dict(zip(lengths, plan.ranks, strict=True)) for percent, plan in plans.items()}

    @property
    def percents(self) -> tuple[int, ...]:
        """Positions of the slider, the smallest first."""
        return tuple(self._ranks)

    def rank(self, percent: int, name: str) -> int | None:
        """The rank of a layer; None where it runs its original weight."""
        rank = self._ranks[percent][name]
        return None if rank == DENSE else rank

    def share(self, percent: int, name: str) -> float:
        """Directions that a layer keeps, in percent of all it has."""
        return self._share(name, self._ranks[percent][name])

    def kept_shares(self) -> dict[int, float]:
        """Directions that the whole model keeps at each position, in percent of all."""
        total = max(1, sum(self._lengths.values()))
        counts = {
            percent: sum(self._lengths[name] if rank == DENSE else rank for name, rank in ranks.items())
            for percent, ranks in self._ranks.items()
        }
        return {percent: round(100 * count / total, 2) for percent, count in counts.items()}

    def through(self, picture: Picture, names: Sequence[str]) -> Picture:
        """A score map of these layers with the cut drawn in, a line that moves with the slider."""
        figure = go.Figure(picture.figure)
        x = figure.data[0].x
        line = go.Scatter(x=x, y=[100.0] * len(x), line=_LINE, mode="lines", showlegend=False, hoverinfo="skip")
        figure.add_trace(line)
        frames = {
            percent: [[1, {"y": [self._share(name, ranks[name]) for name in names]}]]
            for percent, ranks in self._ranks.items()
        }
        note = f"{picture.note} The line is the cut under the slider: what lies above it is gone."
        return replace(picture, figure=figure, note=note, frames=frames)

    def rank_picture(self, kinds: Mapping[str, Sequence[str]]) -> Picture:
        """The rank of every layer at the slider's position, by type and depth."""
        columns = max(map(len, kinds.values()))
        figure = go.Figure(
            go.Heatmap(
                x=list(range(columns)), y=[escape(kind) for kind in kinds], zmin=0, zmax=1, colorscale=list(_COLORS),
                showscale=False, xgap=1, ygap=1, texttemplate="%{text}",
                hovertemplate="%{y}, depth %{x}<br>%{customdata}<extra></extra>",
                **self._cells(kinds, columns, LARGEST_PERCENT),
            )
        )  # fmt: skip
        laid_out(
            figure,
            {"title": title("depth"), "showgrid": False},
            {"type": "category", "autorange": "reversed", "showgrid": False},
        )
        figure.update_layout(height=90 + 30 * len(kinds))
        frames = {percent: [[0, self._cells(kinds, columns, percent)]] for percent in self._ranks}
        return Picture("Kept ranks", _NOTE, figure, frames)

    def _share(self, name: str, rank: int) -> float:
        return 100.0 if rank == DENSE else round(100 * rank / max(1, self._lengths[name]), 1)

    def _fill(self, name: str, rank: int) -> float:
        return 1.0 if rank == DENSE else round(rank / max(1, self._break_even[name]), 3)

    def _cells(self, kinds: Mapping[str, Sequence[str]], columns: int, percent: int) -> dict[str, Any]:
        ranks = self._ranks[percent]
        rows: dict[str, Any] = {"z": [], "text": [], "customdata": []}
        for names in kinds.values():
            row = [ranks[name] for name in names]
            rest = [None] * (columns - len(names))
            full = [self._fill(name, ranks[name]) for name in names]
            rows["z"].append([*full, *rest])
            rows["text"].append([*("•" if rank == DENSE else "" for rank in row), *rest])
            texts = ["the original weight" if r == DENSE else f"rank {r}" for r in row]
            rows["customdata"].append([*texts, *rest])
        return rows
