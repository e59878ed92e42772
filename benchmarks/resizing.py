"""Sizes in bytes of the default model: making its codes, reading them later, and the pass after a change of size."""

from __future__ import annotations

import os
import random
import tempfile
import time
from unittest import mock

import torch

from acip_core.artifacts.loading import Loaded, install_coding, open_model
from acip_core.progress import finish

from .figure import Figure, clock, median_of

_CHANGES = 20
_RANGE = (36e6, 97e6)  # bytes


def measure_resizing() -> list[Figure]:
    """Codes are made in an empty cache; nothing where the artifact has no operating points."""
    loaded = finish(open_model())
    if loaded.coding is None:
        return []
    with tempfile.TemporaryDirectory(prefix="acip-") as cache, mock.patch.dict(os.environ, ACIP_CACHE=cache):
        making, reading = _seconds(loaded), _seconds(loaded)
        extra = _extra(loaded)
    return [
        Figure("making the codes of all levels, once per machine", making, "s", 180),
        Figure("reading the codes at a later start", reading, "s", 25),
        median_of("first pass after a change of size less a later one", [1e3 * s for s in extra], "ms", 100),
        Figure("first pass after a change of size less a later one, the worst", 1e3 * max(extra), "ms", 100),
    ]


def _seconds(loaded: Loaded) -> float:
    began = time.perf_counter()
    finish(install_coding(loaded))
    return time.perf_counter() - began


def _extra(loaded: Loaded) -> list[float]:
    elastic, draw = loaded.elastic, random.Random(0)
    ids = torch.arange(10, 20)[None].to(elastic.model.device)
    planner = elastic.planners["both"]

    def passed() -> float:
        began = clock()
        with torch.inference_mode():
            elastic.model(ids, use_cache=False)
        return clock() - began

    extra = []
    for _ in range(_CHANGES):
        elastic.apply(planner.at_bytes(draw.uniform(*_RANGE)))
        first = passed()
        extra.append(first - min(passed() for _ in range(3)))
    return extra
