"""The README's plot of the comparison, drawn by the browser that the tests use."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import plotly

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.comparison import read_comparison
from acip_core.figures.comparison_picture import comparison_figure
from acip_core.model.base_model import DEFAULT_MODEL

from .browser import chromium
from .tables import ROOT

PLOT = ROOT / "assets" / "comparison.svg"
_PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def draw_comparison() -> None:
    """Write the figure as SVG on white, readable in both themes of the sites that show READMEs."""
    comparison = read_comparison(default_artifact(DEFAULT_MODEL))
    if comparison is None:
        return
    figure = comparison_figure(comparison).update_layout(paper_bgcolor="white", width=900, height=640)
    figure.update_xaxes(gridcolor="#e2e8f0").update_yaxes(gridcolor="#e2e8f0")
    with chromium() as browser:
        page = browser.new_page()
        page.add_script_tag(path=str(_PLOTLY))
        url: str = page.evaluate("figure => Plotly.toImage(figure, {format: 'svg'})", json.loads(figure.to_json()))
    PLOT.write_text(unquote(url.partition(",")[2]) + "\n", encoding="utf-8")
