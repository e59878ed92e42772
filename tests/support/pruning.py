"""Pruning runs of tiny models, as scores by pruning need them."""

from __future__ import annotations

from pathlib import Path

import torch

from acip_core.scoring.acip import AcipResult, acip_scores
from acip_core.scoring.pruning_config import PruningConfig
from tests.support.tiny import calibration, tiny_base, tiny_factors

SETTINGS = PruningConfig(
    mask_learning_rate=2e-3, adapter_learning_rate=1e-3, penalty=1e-2, penalty_growth=1.1, post_steps=3, batch=2,
    micro_batch=2, window=32, rank=2, alpha=4, max_steps=200, stop_ratio=0.5,
)  # fmt: skip


def run(family: str = "llama", settings: PruningConfig = SETTINGS, checkpoint: Path | None = None, **options):
    base = tiny_base(family)
    return acip_scores(base, tiny_factors(base), calibration(), settings, checkpoint=checkpoint, **options)


def same(one: AcipResult, other: AcipResult) -> bool:
    tensors = [
        (one.scores, other.scores),
        (one.history, other.history),
        ({n: w.a for n, w in one.adapters.items()}, {n: w.a for n, w in other.adapters.items()}),
        ({n: w.b for n, w in one.adapters.items()}, {n: w.b for n, w in other.adapters.items()}),
    ]
    return all(torch.equal(x[name], y[name]) for x, y in tensors for name in x)
