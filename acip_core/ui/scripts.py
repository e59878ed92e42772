"""The page's script: ES modules under `assets/js`, of which `main.js` is the entry, and the values that they read.

The address of a module holds a digest of all of them, so that a browser may keep what it has and never mixes an old
version with a new one. Addresses are relative to the page, which may stand anywhere below a host.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..figures.report import PLOTLY, element_json
from ..paths import assets_dir
from ..storage.digests import cache_key
from .document import PREVIEW_ROUTE

_FOLDER = assets_dir() / "js"
_MODULES = {path.name: path.read_bytes() for path in sorted(_FOLDER.glob("*.js"))}
_BASE = f"acip/js/{cache_key(*_MODULES.values(), length=16)}"
_ENTRY = f"{_BASE}/main.js"
_PLOTLY_ROUTE = "acip/plotly.min.js"
_KEEP = {"Cache-Control": "public, max-age=31536000, immutable"}
# Gradio compiles strings; a relative address in them would be taken from Gradio's own scripts.
_IMPORTED = f'import(new URL("{_ENTRY}", document.baseURI))'


def head(values: Mapping[str, Any]) -> str:
    """What the page's head holds: its values as one JSON element, its modules, and Plotly, which these run later."""
    preloads = "".join(f'<link rel="modulepreload" href="{_BASE}/{name}">' for name in _MODULES)
    plotly = f'<link rel="preload" as="script" fetchpriority="low" href="{_PLOTLY_ROUTE}" id="acip-plotly">'
    return (
        f'<script type="application/json" id="acip-data">{element_json(values)}</script>{preloads}'
        f'<script type="module" src="{_ENTRY}"></script>{plotly}'
    )


def calling(function: str) -> str:
    """For an event's `js`: calls what `main.js` exports with the event's inputs, and returns its outputs."""
    return f"async (...inputs) => (await {_IMPORTED}).{function}(...inputs)"


def mounting(function: str) -> str:
    """For a component's `js_on_load`: hands the component to what `main.js` exports."""
    return f"{_IMPORTED}.then((page) => page.{function}({{ element, props, watch, trigger }}));"


def routes() -> list[Route]:
    """Where browsers fetch the modules, and Plotly."""
    return [
        Route(f"/{_BASE}/{{name}}", _module_file),
        Route(f"/{_PLOTLY_ROUTE}", _plotly_file),
        Route(f"/{PREVIEW_ROUTE}", _preview_file),
    ]


def _module_file(request: Request) -> Response:
    text = _MODULES.get(request.path_params["name"])
    if text is None:
        return PlainTextResponse("There is no such script.", HTTPStatus.NOT_FOUND)
    return Response(text, media_type="text/javascript", headers=_KEEP)


def _preview_file(request: Request) -> FileResponse:
    return FileResponse(assets_dir() / "preview.png", headers={"Cache-Control": "public, max-age=86400"})


def _plotly_file(request: Request) -> FileResponse:
    return FileResponse(PLOTLY, media_type="text/javascript", headers={"Cache-Control": "public, max-age=86400"})
