"""Planning a million directions: once, then per query."""

from __future__ import annotations

import time

import numpy as np

from acip_core.sizing import SizePlanner

from .figure import Figure, median_of


def measure_planning(rounds: int = 9) -> list[Figure]:
    """A 7B-shaped model: 32 blocks of 7 layers, one million directions."""
    shapes, scores = {}, {}
    random = np.random.default_rng(0)
    block = {"q": (4096, 4096), "k": (4096, 4096), "v": (4096, 4096), "o": (4096, 4096)}
    block |= {"gate": (11008, 4096), "up": (11008, 4096), "down": (4096, 11008)}
    for layer in range(32):
        for name, shape in block.items():
            shapes[f"{layer}.{name}"] = shape
            scores[f"{layer}.{name}"] = random.random(min(shape), dtype=np.float32)
    once, queries = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        planner = SizePlanner(shapes, scores, 16)
        once.append(1e3 * (time.perf_counter() - began))
    for ratio in np.linspace(0.3, 1.0, 200):
        began = time.perf_counter()
        planner.at_ratio(float(ratio))
        queries.append(1e3 * (time.perf_counter() - began))
    directions = sum(len(s) for s in scores.values())
    return [
        median_of(f"planning {directions / 1e6:.2f} million directions, once", once, "ms", 50),
        median_of("one size planned afterwards", queries, "ms", 1),
    ]
