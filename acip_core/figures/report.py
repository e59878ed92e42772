"""An artifact as one HTML page that anyone can open: what it is, how it was made, what was measured.

Plotly's script and all data are inside the file; it asks for nothing else and works without network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from ..artifacts.artifact import Artifact
from ..artifacts.comparison import Comparison
from ..artifacts.task_results import TaskResult
from ..errors import StorageError
from ..evaluation.curves import Curve, primary_curves
from ..evaluation.methods import corpus_title
from ..paths import assets_dir
from ..storage.atomic import atomic_path
from .chart import curve_figure
from .comparison_picture import comparison_picture
from .pictures import gallery, history_pictures, score_map_pictures
from .tasks import task_pictures

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_ASSETS = assets_dir()
_TableRow = tuple[str, list[str]]  # its name, its cells
_PLACES = {"curves": "What was measured", "maps": "Score map", "history": "Training"}
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
    curve_header, curve_rows = _curve_table(primary_curves(artifact.curves))
    return _template().render(
        title=title,
        summary=summary,
        places=[(place, heading) for place, heading in _PLACES.items() if place in galleries],
        curve_header=curve_header,
        curve_rows=curve_rows,
        recipe_rows=_recipe_rows(artifact),
        plotly=PLOTLY.read_text(encoding="utf-8"),
        figures=(_ASSETS / "js" / "figures.js").read_text(encoding="utf-8"),
        data=element_json(galleries),
    )


def _template() -> Template:
    """Escapes every value but scripts, which the template marks as safe."""
    environment = Environment(loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html")


def _galleries(artifact: Artifact) -> dict[str, list[dict[str, Any]]]:
    """Pictures by the id of their place."""
    galleries = {"maps": gallery(score_map_pictures(artifact).values())}
    if artifact.curves:
        smallest = math.floor(100 * min(point.ratio for curve in artifact.curves for point in curve.points))
        figure = curve_figure(artifact.curves, smallest)
        galleries["curves"] = [{"title": "Perplexity at every size", "note": _CURVES_NOTE, "figure": figure}]
    history = gallery(history_pictures(artifact.history, artifact.scores))
    return galleries | ({"history": history} if history else {})


def element_json(value: Any) -> str:
    """JSON that stays inside its script element, whatever names it holds."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _curve_table(curves: Sequence[Curve]) -> tuple[list[str], list[_TableRow]]:
    """Header, and a row a size: megabytes of the whole model, then perplexity and its ratio to the base model's."""
    values: dict[float, dict[str, tuple[float, float]]] = {}
    megabytes: dict[float, float] = {}
    for curve in curves:
        for point in curve.points:
            ratio = round(point.ratio, 3)
            values.setdefault(ratio, {})[curve.corpus] = (point.perplexity, point.perplexity / curve.base_perplexity)
            megabytes[ratio] = point.bytes / 1e6
    corpora = list(dict.fromkeys(curve.corpus for curve in curves))
    header = ["size", "whole model", *(f"perplexity, {corpus_title(corpus)}" for corpus in corpora)]
    rows: list[_TableRow] = []
    for ratio in sorted(values, reverse=True):
        cells = [f"{megabytes[ratio]:.0f} MB"]
        for corpus in corpora:
            value = values[ratio].get(corpus)
            cells.append(f"{value[0]:.4g} ({value[1]:.3g} ×)" if value else "")
        rows.append((f"{100 * ratio:.3g} %", cells))
    return header, rows


def _recipe_rows(artifact: Artifact) -> list[_TableRow]:
    facts = {"model": artifact.name, "made from": artifact.source, "fingerprint": artifact.fingerprint}
    return [(name, [value]) for name, value in _flat(facts | artifact.recipe)]


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
