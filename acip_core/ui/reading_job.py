"""Reading a visitor's own text at many sizes: which size comes next, and what the browser is told of each.

Nothing of the text is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from threading import Event
from typing import Any

from ..data.passage import Passage, cut_passage
from ..generation.engine import Engine
from ..model.tracks import LARGEST_PERCENT, Track
from .job import STARTING, Job
from .messages import Message, counted, reading_status, thinned
from .model_service import ModelService
from .requests import text_of
from .visitors import Run

MOST_TOKENS = 4096  # of a text: half a minute for all sizes on two cores
_COARSE, _FINE = 2, 1  # steps of the track between two sizes


class ReadingJob(Job):
    """A text at many sizes, coarse ones first: its perplexity, and every token's loss in nats."""

    kind = "reading"
    failed = "Not read"

    def __init__(self, model: ModelService, text: Any, percent: Any, mode: Any = ""):
        super().__init__()
        self._model, self._asked = model, (text, percent, mode)

    def check(self) -> None:
        text, percent, mode = self._asked
        self.common.update(pieces=[], left_out=0, sizes=[])
        self.take_size(self._model, percent, mode)
        self.text = text_of("text", text)

    def messages(self, run: Run) -> Iterator[Message]:
        yield STARTING
        model, common = self._model, self.common
        passage = cut_passage(model.engine.elastic.tokenizer, self.text, model.window, MOST_TOKENS)
        common.update(pieces=passage.pieces, left_out=passage.left_out)
        total = len(sizes_to_read(self.percent, self.track))
        for sizes in thinned(self._read(passage, run)):
            yield {
                "state": "running",
                "status": reading_status(sizes, self.track.named(sizes[-1]["percent"]), total, passage.pieces),
            }
        done = sum(size["done"] for size in common["sizes"])
        state, word = ("stopped", "Stopped reading") if run.cancel.is_set() else ("done", "Read")
        sentence = f"{word}: {counted(len(passage.pieces), 'token')} at {counted(done, 'size')}"
        behind = f"; {counted(passage.left_out, 'token')} behind them not read" if passage.left_out else ""
        yield {"state": state, "status": f"{sentence}{behind}."}

    def _read(self, passage: Passage, run: Run) -> Iterator[list[Any]]:
        for sizes in read_passage(self._model.engine, passage, self.percent, self.track, run.cancel):
            self.common["sizes"] = sizes
            yield sizes


def sizes_to_read(percent: float, track: Track) -> list[float]:
    """The full model, the slider's size, then wherever the widest gap is, on a coarse grid before a fine one."""
    order = list(dict.fromkeys([LARGEST_PERCENT, percent]))
    for step in (_COARSE, _FINE):
        missing = list(dict.fromkeys([*track.distinct[:: step * track.step], track.distinct[-1]]))
        missing = [p for p in missing if p not in order]
        while missing:
            farthest = max(missing, key=lambda p: min(abs(p - known) for known in order))
            order.append(farthest)
            missing.remove(farthest)
    return order


def read_passage(engine: Engine, passage: Passage, percent: float, track: Track, cancel: Event) -> Iterator[list[Any]]:
    """What is known of every size so far, after each window: a list of plain values per size.

    Every entry has `percent`, `ratio`, `losses` (nats per piece so far), `perplexity` (of these) and `done`. The
    losses are one string, separated by spaces: as numbers they would hold up the browser with every message.
    """
    read: list[Any] = []
    for size in sizes_to_read(percent, track):
        plan = track.plan_at(size)[1]
        losses: list[float] = []
        entry: dict[str, Any] = {}
        for window in engine.losses(passage.windows, plan, cancel):
            losses += window[passage.lead - 1 :].tolist()
            perplexity = math.exp(min(math.fsum(losses) / len(losses), 700))
            shown = " ".join(f"{loss:.3f}" for loss in losses)
            entry = {"percent": size, "ratio": plan.ratio, "losses": shown, "perplexity": perplexity}
            entry["done"] = len(losses) == len(passage.pieces)
            yield [*read, entry]
        if cancel.is_set():
            return
        read.append(entry)
