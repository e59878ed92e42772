"""The documents' plots, drawn by the browser that the tests use."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import plotly

from acip_core.artifacts.artifact import default_artifact
from acip_core.artifacts.comparison import read_comparison
from acip_core.artifacts.peers import read_peers
from acip_core.figures.comparison_picture import comparison_figure
from acip_core.figures.peer_lines import peers_figure
from acip_core.model.base_model import DEFAULT_MODEL

from .browser import chromium
from .coded import coded_curves
from .tables import ROOT

COMPARISON, PEERS = ROOT / "assets" / "comparison.svg", ROOT / "assets" / "peers.svg"
_PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def draw_plots() -> None:
    """Write what is measured as SVG on white, readable in both themes of the sites that show documents."""
    folder = default_artifact(DEFAULT_MODEL)
    figures = {}
    if (comparison := read_comparison(folder)) is not None:
        figures[COMPARISON] = comparison_figure(comparison).update_layout(width=900, height=640)
    if (peers := read_peers(folder)) is not None:
        curves = coded_curves("both")
        figures[PEERS] = peers_figure(peers, curves).update_layout(width=900, height=520)
    with chromium() as browser:
        page = browser.new_page()
        page.add_script_tag(path=str(_PLOTLY))
        for path, figure in figures.items():
            figure.update_layout(paper_bgcolor="white")
            figure.update_xaxes(gridcolor="#e2e8f0").update_yaxes(gridcolor="#e2e8f0")
            content = json.loads(figure.to_json())
            url: str = page.evaluate("figure => Plotly.toImage(figure, {format: 'svg'})", content)
            path.write_text(unquote(url.partition(",")[2]) + "\n", encoding="utf-8")
