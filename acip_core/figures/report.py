"""An artifact as one HTML page that anyone can open: what it is, how it was made, what was measured.

Plotly's script and all data are inside the file; it asks for nothing else and works without network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import plotly

from ..artifacts.artifact import Artifact
from ..artifacts.comparison import Comparison
from ..artifacts.task_results import TaskResult
from ..errors import StorageError
from ..evaluation.curves import Curve, primary_curves
from ..evaluation.methods import corpus_title
from ..storage.atomic import atomic_path
from .chart import curve_figure
from .comparison_picture import comparison_picture
from .pictures import gallery, history_pictures, score_map_pictures
from .tasks import task_pictures

_ASSETS = Path(__file__).parents[2] / "assets"
_PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_CURVES_NOTE = (
    "Perplexity on held-out text at every measured size, lower is better; the diamonds are the full model, thin lines "
    "other methods."
)


def write_report(
    artifact: Artifact, path: Path, comparison: Comparison | None = None, evaluation: Sequence[TaskResult] = ()
) -> None:
    """Write the report, replacing an older one only when the new one is complete.

    Raises:
        ArtifactError: the scores or the history do not have the expected shapes.
        StorageError: `path` is a folder or cannot be written.
    """
    if path.is_dir():
        raise StorageError(f"{path} is a folder; name a file for the report, such as {path / 'report.html'}.")
    text = report_html(artifact, comparison, evaluation)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def report_html(artifact: Artifact, comparison: Comparison | None = None, evaluation: Sequence[TaskResult] = ()) -> str:
    """The report's text.

    Raises:
        ArtifactError: as `write_report`.
    """
    galleries = _galleries(artifact)
    others = [comparison_picture(comparison)] if comparison is not None and comparison.results else []
    if measured := gallery([*others, *task_pictures(evaluation)]):
        galleries.setdefault("curves", []).extend(measured)
    directions = sum(len(score) for score in artifact.scores.values())
    title = f"How {artifact.name} was made elastic"
    summary = (
        f"Made from {artifact.source}: the {directions:,} singular directions of its {len(artifact.scores):,} linear "
        "layers in one order of importance, so that it can be cut to any size without retraining."
    )
    places = {"curves": "What was measured", "maps": "Score map", "history": "Training"}
    sections = [_place(places[place], place) for place in places if place in galleries]
    if artifact.curves:
        sections.insert(1, _table(_curve_rows(primary_curves(artifact.curves))))
    sections += ["<h2>Recipe</h2>", _table(_recipe_rows(artifact))]
    template = Template((_ASSETS / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        summary=escape(summary),
        sections="\n".join(sections),
        plotly=_PLOTLY.read_text(encoding="utf-8"),
        pictures="".join((_ASSETS / name).read_text(encoding="utf-8") for name in ("plot.js", "pictures.js")),
        data=_script_literal(galleries),
    )


def _galleries(artifact: Artifact) -> dict[str, list[dict[str, Any]]]:
    """Pictures by the id of their place."""
    galleries = {"maps": gallery(score_map_pictures(artifact).values())}
    if artifact.curves:
        smallest = math.floor(100 * min(point.ratio for curve in artifact.curves for point in curve.points))
        figure = curve_figure(artifact.curves, smallest)
        galleries["curves"] = [{"title": "Perplexity at every size", "note": _CURVES_NOTE, "figure": figure}]
    history = gallery(history_pictures(artifact.history, artifact.scores))
    return galleries | ({"history": history} if history else {})


def _script_literal(value: Any) -> str:
    """JSON that stays inside its script element whatever names it holds."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _place(title: str, place: str) -> str:
    return f'<h2>{title}</h2>\n<div class="pictures" id="{place}"></div>'


def _table(rows: str) -> str:
    return f'<div class="card"><table>{rows}</table></div>'


def _curve_rows(curves: Sequence[Curve]) -> str:
    """One row a size: megabytes of the whole model, then perplexity and its ratio to the base model's per corpus."""
    values: dict[float, dict[str, tuple[float, float]]] = {}
    megabytes: dict[float, float] = {}
    for curve in curves:
        for point in curve.points:
            ratio = round(point.ratio, 3)
            values.setdefault(ratio, {})[curve.corpus] = (point.perplexity, point.perplexity / curve.base_perplexity)
            megabytes[ratio] = point.bytes / 1e6
    corpora = list(dict.fromkeys(curve.corpus for curve in curves))
    header = ["size", "whole model", *(f"perplexity, {corpus_title(corpus)}" for corpus in corpora)]
    rows = []
    for ratio in sorted(values, reverse=True):
        cells = [f"{megabytes[ratio]:.0f} MB"]
        for corpus in corpora:
            value = values[ratio].get(corpus)
            cells.append(f"{value[0]:.4g} ({value[1]:.3g} ×)" if value else "")
        rows.append((f"{100 * ratio:.3g} %", cells))
    return f"<thead><tr>{''.join(f'<th>{escape(h)}</th>' for h in header)}</tr></thead>{_body(rows)}"


def _recipe_rows(artifact: Artifact) -> str:
    facts = {"model": artifact.name, "made from": artifact.source, "fingerprint": artifact.fingerprint}
    return _body([(name, [value]) for name, value in _flat(facts | artifact.recipe)])


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and values of nested settings, in words."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        title = prefix + str(name).replace("_", " ")
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{title}: ")
        else:
            pairs.append((title, _words(value)))
    return pairs


def _words(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return ", ".join(_words(item) for item in value) if isinstance(value, list | tuple) else str(value)


def _body(rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = [
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, cells in rows
    ]
    return f"<tbody>{''.join(lines)}</tbody>"
