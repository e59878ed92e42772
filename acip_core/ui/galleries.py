"""The page's pictures, made when they are first asked for and fetched past Gradio.

Gradio's page goes through all values of its components whenever one changes, and these hold a frame for every position
of the slider: as such a value they cost every streamed token 170 ms.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from http import HTTPStatus
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ..artifacts.loading import Loaded
from ..errors import ArtifactError, GenerationError
from ..figures.byte_cut import foretold_picture, held_picture
from ..figures.byte_method import byte_method_pictures
from ..figures.comparison_picture import comparison_picture
from ..figures.cut import Cuts
from ..figures.direction_method import method_pictures
from ..figures.pictures import Picture, gallery, history_pictures, layer_types, score_map_pictures
from ..figures.tasks import task_pictures
from ..model.size_planner import DIRECTIONS
from ..model.tracks import Track, smallest_percent
from .glossary import terms_in

ROUTE = "acip/pictures"
_PLACES = ("method", "history", "score-map", "bytes")
COMPRESSED = [Middleware(GZipMiddleware, compresslevel=5)]


class Galleries:
    """Pictures by the name of their place: `method`, `method.MODE`, `history`, `score-map.KIND`, `bytes.MODE`.

    Args:
        track: of a mode; raises GenerationError where there is none. Without it there are no pictures of bytes.
    """

    def __init__(self, loaded: Loaded, track: Callable[[Any], Track] | None = None):
        self._loaded, self._track = loaded, track
        self._making = threading.Lock()
        self._bytes = cache(lambda name: json.dumps(self.made(name), allow_nan=False).encode())

    def close(self) -> None:
        """Let go of the model."""
        vars(self).clear()

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Layer types of the model, in the order of a block."""
        return tuple(layer_types(self._loaded.artifact))

    def made(self, name: str) -> list[dict[str, Any]]:
        """A gallery as plain JSON values; where the artifact is damaged, one sentence in its place.

        Raises:
            KeyError: there is no such gallery.
        """
        place, _, kind = name.partition(".")
        if place not in _PLACES or name.endswith("."):  # whoever invents a name gets no place in the cache
            raise KeyError(name)
        if (place == "score-map" and kind not in self.kinds) or (place == "history" and kind):
            raise KeyError(name)
        if place == "bytes" or (place == "method" and kind):
            return _explained(self._of_bytes(name, place, kind))
        try:
            if place == "method":
                return _explained(method_pictures(self._loaded, self._cuts))
            if place == "score-map":
                return _explained(self._score_map(kind))
            return _explained(self._history())
        except ArtifactError as error:
            return [{"title": "There are no pictures", "note": str(error), "figure": None}]

    def route(self) -> Route:
        """Where browsers fetch them."""

        def fetch(request: Request) -> Response:
            try:
                with self._making:  # two visitors must not make the same
                    body = self._bytes(request.path_params["name"])
            except KeyError:
                return PlainTextResponse("There are no such pictures.", HTTPStatus.NOT_FOUND)
            return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

        return Route(f"/{ROUTE}/{{name}}", fetch, middleware=COMPRESSED)

    @cached_property
    def _cuts(self) -> Cuts:
        scores = self._loaded.artifact.scores
        lengths = {name: len(scores[name]) for name in self._loaded.elastic.elastic_layers()}
        planner = self._loaded.elastic.planner
        return Cuts(planner, lengths, smallest_percent(planner))

    @cached_property
    def _maps(self) -> dict[str, Picture]:
        return score_map_pictures(self._loaded.artifact)

    def _score_map(self, kind: str) -> list[Picture]:
        kinds = layer_types(self._loaded.artifact)
        return [self._cuts.through(self._maps[kind], kinds[kind]), self._cuts.rank_picture(kinds)]

    def _of_bytes(self, name: str, place: str, mode: str) -> list[Picture]:
        loaded = self._loaded
        if self._track is None:
            raise KeyError(name)
        try:
            track = self._track(mode)
        except GenerationError:
            raise KeyError(name) from None  # not yet
        if loaded.elastic.coded is None or loaded.coding is None or track.mode == DIRECTIONS:
            raise KeyError(name)
        states, kinds, curves = loaded.elastic.coded, layer_types(loaded.artifact), loaded.coding.curves
        if place == "method":
            return byte_method_pictures(track, states, kinds, curves)
        return [held_picture(track, states, kinds), *filter(None, [foretold_picture(track, curves)])]

    def _history(self) -> list[Picture]:
        compared = self._loaded.comparison
        others = [comparison_picture(compared)] if compared and compared.results else []
        artifact = self._loaded.artifact
        made = history_pictures(artifact.history, artifact.scores)
        return [*task_pictures(self._loaded.evaluation), *others, *made]


def _explained(pictures: Iterable[Picture]) -> list[dict[str, Any]]:
    """Pictures as plain JSON values, each with the terms that it shows and their sentences."""
    return [{**picture, "terms": list(terms_in(*_words(picture)).items())} for picture in gallery(pictures)]


def _words(picture: dict[str, Any]) -> Iterator[str]:
    """All that a picture shows in words: title, note, names of its lines, axes and cells."""
    yield from (picture["title"], picture["note"])
    for trace in picture["figure"]["data"]:
        yield str(trace.get("name", ""))
        yield from (str(label) for axis in ("x", "y") for label in trace.get(axis, ()) if isinstance(label, str))
    for part in picture["figure"]["layout"].values():
        if isinstance(part, dict):
            yield str(part.get("title", {}).get("text", "") if isinstance(part.get("title"), dict) else "")
            yield from map(str, part.get("ticktext", ()))
