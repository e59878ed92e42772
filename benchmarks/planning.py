"""Planning sizes and resizing: the default model in directions and in bytes, a 7B-shaped one in directions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from acip_core.artifacts.loading import Loaded, install_coding, open_model
from acip_core.model.coded_states import byte_planner
from acip_core.model.size_planner import BITS, SizePlanner
from acip_core.progress import finish

from .figure import Figure, clock, median_of

Shapes = dict[str, tuple[int, int]]


def measure_planning(rounds: int = 9) -> list[Figure]:
    """Planner once, then from a ratio to a model ready to run, also against recounting masks by bisection."""
    shapes, scores = _large_model()
    once = []
    for _ in range(rounds):
        began = clock()
        planner = SizePlanner(shapes, scores, 16)
        once.append(1e3 * (clock() - began))
    queries = _resizes(planner.at_ratio)
    loaded = finish(open_model())
    own = loaded.artifact.scores
    resizes = _resizes(loaded.elastic.set_size)
    layers = loaded.elastic.elastic_layers()
    own_shapes = layers.shapes
    recounts = [_timed(lambda r=ratio: _bisected(own_shapes, own, r)) for ratio in (0.9, 0.7, 0.5, 0.3)]
    directions = sum(len(s) for s in scores.values())
    return [
        median_of(f"planning {directions / 1e6:.2f} million directions, once", once, "ms", 50),
        Figure("one of its sizes afterwards, 99th percentile", float(np.percentile(queries, 99)), "ms", 1),
        Figure("resizing the default model, 99th percentile", float(np.percentile(resizes, 99)), "ms", 1),
        median_of(
            "recounting masks by bisection ÷ resizing", [r / np.median(resizes) for r in recounts], "×", 100, "higher"
        ),
        *in_bytes(loaded, rounds),
    ]


def in_bytes(loaded: Loaded, rounds: int = 9) -> list[Figure]:
    """Planning the default model's sizes in bytes once, then by a share or a quality; none without operating points."""
    elastic = loaded.elastic
    if not finish(install_coding(loaded)) or elastic.coded is None:
        return []
    plan = partial(byte_planner, elastic, elastic.coded, BITS, 0)
    once, planner = [_timed(plan) for _ in range(rounds)], plan()
    by = {"share": _resizes(planner.at_ratio), "quality": _resizes(planner.at_loss)}
    return [
        median_of("planning the default model's sizes in bytes, once", once, "ms", 50),
        *(
            Figure(f"one of them by its {kind}, 99th percentile", np.percentile(t, 99).item(), "ms", 1)
            for kind, t in by.items()
        ),
    ]


def _large_model() -> tuple[Shapes, dict[str, np.ndarray]]:
    """32 blocks of 7 layers, as LLaMA-7B's, with random scores."""
    shapes: Shapes = {}
    block = {"q": (4096, 4096), "k": (4096, 4096), "v": (4096, 4096), "o": (4096, 4096)}
    block |= {"gate": (11008, 4096), "up": (11008, 4096), "down": (4096, 11008)}
    for layer in range(32):
        shapes |= {f"{layer}.{name}": shape for name, shape in block.items()}
    source = np.random.default_rng(0)
    return shapes, {name: source.random(min(shape), dtype=np.float32) for name, shape in shapes.items()}


def _resizes(resize: Callable[[float], object], count: int = 2000) -> list[float]:
    """Milliseconds of resizes to random ratios."""
    source = random.Random(0)
    return [_timed(lambda ratio=source.uniform(0.35, 1.0): resize(ratio)) for _ in range(count)]


def _timed(work: Callable[[], object]) -> float:
    began = clock()
    work()
    return 1e3 * (clock() - began)


def _bisected(shapes: Shapes, scores: Mapping[str, torch.Tensor], ratio: float) -> list[int]:
    """Ranks for a ratio by bisection of the threshold, recounting every layer's mask at each step."""
    total = sum(m * n for m, n in shapes.values())
    low = min(float(score.min()) for score in scores.values())
    high = max(float(score.max()) for score in scores.values())
    ranks: list[int] = []
    for _ in range(30):
        middle = (low + high) / 2
        ranks = [int((scores[name] > middle).sum()) for name in shapes]
        size = sum(min(rank * (m + n), m * n) for rank, (m, n) in zip(ranks, shapes.values(), strict=True))
        low, high = (middle, high) if size > ratio * total else (low, middle)
    return ranks
