"""A visitor's own text at many sizes: which size comes next, and what the browser is told of each.

Knows nothing of gradio, and keeps nothing of the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from threading import Event
from typing import Any

from ..data.passage import Passage
from ..figures.size_table import LARGEST_PERCENT, plan_at
from ..generation.engine import Engine

MOST_TOKENS = 4096  # of a text: half a minute for all sizes on two cores
_COARSE, _FINE = 10, 5  # percent between two sizes


def sizes_to_read(percent: int, smallest: int) -> list[int]:
    """The full model, the slider's size, then wherever the widest gap is, on a coarse grid before a fine one."""
    order = list(dict.fromkeys([LARGEST_PERCENT, percent]))
    for step in (_COARSE, _FINE):
        missing = [*range(LARGEST_PERCENT, smallest, -step), smallest]
        missing = [p for p in missing if p not in order]
        while missing:
            farthest = max(missing, key=lambda p: min(abs(p - known) for known in order))
            order.append(farthest)
            missing.remove(farthest)
    return order


def read_passage(engine: Engine, passage: Passage, percent: int, smallest: int, cancel: Event) -> Iterator[list[Any]]:
    """What is known of every size so far, after each window: a list of plain values per size.

    Every entry has `percent`, `ratio`, `losses` (nats per piece so far), `perplexity` (of these) and `done`. The
    losses are one string, separated by spaces: as numbers they would hold up the browser with every message.
    """
    read: list[Any] = []
    for size in sizes_to_read(percent, smallest):
        plan = plan_at(engine.elastic.planner, size)[1]
        losses: list[float] = []
        entry: dict[str, Any] = {}
        for window in engine.losses(passage.windows, plan, cancel):
            losses += window[passage.lead - 1 :].tolist()
            perplexity = math.exp(min(math.fsum(losses) / len(losses), 700))
            told = " ".join(f"{loss:.3f}" for loss in losses)
            entry = {"percent": size, "ratio": plan.ratio, "losses": told, "perplexity": perplexity}
            entry["done"] = len(losses) == len(passage.pieces)
            yield [*read, entry]
        if cancel.is_set():
            return
        read.append(entry)
