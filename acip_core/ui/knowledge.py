"""What the browser is told of the facts that every size knows; knows nothing of gradio.

Which tiles are lit at which position comes with the page, so that the first paint is right and a drag needs no request;
what a size says in place of an answer is fetched once for each mode.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ..artifacts.knowledge import Knowledge, opening
from ..artifacts.loading import Loaded
from ..errors import GenerationError
from ..evaluation.skill_sentences import GROUPS
from ..model.tracks import LARGEST_PERCENT, Track
from .galleries import COMPRESSED

ROUTE = "acip/knowledge"


class KnowledgeStrip:
    """The facts of a model's strip, and what is known of them in each mode.

    Args:
        track: of a mode; raises GenerationError where there is none.
    """

    def __init__(self, loaded: Loaded, track: Callable[[Any], Track]):
        self._knowledge: Knowledge | None = loaded.knowledge
        self._decode: Callable[[list[int]], Any] = loaded.elastic.tokenizer.decode
        self._track = track
        self._bytes = cache(lambda mode: json.dumps(self.said(track(mode)), allow_nan=False).encode())

    def close(self) -> None:
        """Let go of the model."""
        vars(self).clear()

    def facts(self) -> dict[str, Any] | None:
        """`FactsData` in `assets/js/types.d.ts`; None where there are none to show."""
        if self._knowledge is None or not self._knowledge.strip:
            return None
        group_of = {field: group for group, fields in GROUPS.items() for field in fields}
        shown = [self._knowledge.facts[i] for i in self._knowledge.strip]
        facts = [{"group": group_of[f.field], "prompt": f.prompt, "answer": f.answer.strip()} for f in shown]
        return {"of": len(self._knowledge.facts), "facts": facts}

    def known(self, track: Track) -> dict[str, Any] | None:
        """`KnownData`: by position which facts are known; None where the mode, or one of its sizes, was not asked."""
        sizes = self._sizes(track)
        if self._knowledge is None or sizes is None:
            return None
        of, strip = self._knowledge.modes[track.mode], list(self._knowledge.strip)
        flags = ["".join("1" if rank == 1 else "0" for rank in ranks) for ranks in of.rank[:, strip].tolist()]
        return {"flags": [flags[i] for i in sizes], "shares": [round(of.share[i], 4) for i in sizes]}

    def opening(self, track: Track) -> float:
        """The percentage that a page opens with: the smallest that still knows nine in ten facts, or all."""
        known = self.known(track)
        place = opening(known["shares"]) if known is not None else None
        return LARGEST_PERCENT if place is None else track.percents[place]

    def said(self, track: Track) -> dict[str, Any]:
        """`SaidData`: what every size says.

        Raises:
            KeyError: this mode was not asked.
        """
        sizes = self._sizes(track)
        if self._knowledge is None or sizes is None:
            raise KeyError(track.mode)
        of, strip = self._knowledge.modes[track.mode], list(self._knowledge.strip)
        tokens = sorted(set(of.top.flatten().tolist()))
        number = {token: i for i, token in enumerate(tokens)}
        right, rank = of.probability[:, strip].tolist(), of.rank[:, strip].tolist()
        top, chance = of.top.tolist(), of.top_probability.tolist()
        said = [
            [
                [
                    _rounded(right[size][fact]),
                    rank[size][fact],
                    [number[token] for token in top[size][fact]],
                    [_rounded(value) for value in chance[size][fact]],
                ]
                for fact in range(len(strip))
            ]
            for size in range(len(of.bytes))
        ]
        return {"sizes": sizes, "tokens": [str(self._decode([token])) for token in tokens], "said": said}

    def route(self) -> Route:
        """Where browsers fetch what is said in a mode."""

        def fetch(request: Request) -> Response:
            try:
                body = self._bytes(request.path_params["mode"])
            except (KeyError, GenerationError):
                return PlainTextResponse("Nothing is known of this.", HTTPStatus.NOT_FOUND)
            return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})

        return Route(f"/{ROUTE}/{{mode}}", fetch, middleware=COMPRESSED)

    def _sizes(self, track: Track) -> list[int] | None:
        """The measured size of every position."""
        of = self._knowledge.modes.get(track.mode) if self._knowledge is not None else None
        return of.nearest([track.plan_at(percent)[1].bytes for percent in track.percents]) if of is not None else None


def _rounded(probability: float) -> float:
    """To three figures, as bars and labels need."""
    return float(f"{probability:.3g}")
