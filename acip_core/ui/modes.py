"""What may be spent: the slider's track in every mode that the open model has, and what the browser is told of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..artifacts.loading import Loaded
from ..errors import GenerationError, shown
from ..evaluation.curves import primary_curves
from ..figures.byte_chart import byte_figure, source_file_bytes
from ..figures.byte_rows import byte_rows
from ..generation.speed import lookup_parameters
from ..model.byte_planner import BytePlanner
from ..model.size_planner import BOTH, DIRECTIONS, MODES
from ..model.tracks import Track, directions_track, tracks_of
from .galleries import COMPRESSED
from .knowledge import KnowledgeStrip
from .preparation import Preparation

ROUTE = "acip/modes"


class Modes:
    """The modes of one model; those with bits come once its codes are made.

    Attributes:
        preparation: that makes them.
        directions: the track of the mode that is always there.
        knowledge: the facts that every size knows.
    """

    def __init__(self, loaded: Loaded):
        self._loaded = loaded
        self.preparation = Preparation(loaded)
        self.preparation.finish = lambda: self._described  # half a second that no visitor should wait for
        self.directions = directions_track(loaded.elastic.planner)
        self.knowledge = KnowledgeStrip(loaded, self.track)

    def close(self) -> None:
        """End what is being made, and let go of the model."""
        self.preparation.close()
        self.preparation.finish = None
        self.knowledge.close()
        vars(self).clear()

    def track(self, mode: Any = None) -> Track:
        """The track of a mode; of the best there is by default.

        Raises:
            GenerationError: there is no such mode, or this model does not have it (yet).
        """
        if mode is None or mode == "":
            return self._tracks[BOTH] if self._is_ready else self.directions
        if mode not in MODES:
            raise GenerationError(f"What may be spent is one of {', '.join(MODES)}, not {shown(mode)}.")
        if mode == DIRECTIONS:
            return self.directions
        if not self._is_ready:
            raise GenerationError(self.preparation.told)
        return self._tracks[mode]

    def told(self) -> dict[str, Any]:
        """What the scripts are given: `ModesData` in `assets/js/types.d.ts`."""
        ready = self._is_ready
        told = self.preparation.told
        return {"state": self.preparation.state, "told": told, "modes": self._described if ready else {}}

    def route(self) -> Route:
        """Where browsers fetch them."""

        def fetch(request: Request) -> Response:
            body = json.dumps(self.told(), allow_nan=False).encode()
            return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

        return Route(f"/{ROUTE}", fetch, middleware=COMPRESSED)

    @property
    def _is_ready(self) -> bool:
        return self.preparation.state == "ready"

    @cached_property
    def _tracks(self) -> dict[str, Track]:
        return tracks_of(self._loaded.elastic.planners)

    @cached_property
    def _described(self) -> dict[str, Any]:
        return {mode: self._of(track) for mode, track in self._tracks.items() if mode != DIRECTIONS}

    def _of(self, track: Track) -> dict[str, Any]:
        loaded, planner = self._loaded, track.planner
        assert loaded.coding is not None and isinstance(planner, BytePlanner)
        curves, peers = loaded.coding.curves, loaded.peers
        bases = {curve.corpus: curve.base_perplexity for curve in primary_curves(loaded.artifact.curves)}
        bases |= {curve.corpus: curve.base_perplexity for curve in curves}
        source = source_file_bytes(loaded.elastic.base)
        return {
            "rows": [asdict(row) for row in byte_rows(track, curves, bases, lookup_parameters(loaded.elastic.model))],
            "published": planner.base_bytes,
            "exact": planner.largest,
            "source": source,
            "bases": bases,
            "figure": byte_figure(track, curves, source),
            "others": byte_figure(track, curves, source, peers) if peers is not None and peers.points else None,
            "known": self.knowledge.known(track),
            "opening": self.knowledge.opening(track),
        }
