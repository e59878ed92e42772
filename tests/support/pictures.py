"""What pictures are drawn of: a pruning run's history, a comparison, names that want to be markup."""

from __future__ import annotations

import math

import torch

from acip_core.artifacts.comparison import Comparison, Result

MOST_BYTES = 300_000
HOSTILE = "</script><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>&`${7*7}`{{7*7}}"


def pruning_history(steps: int = 40, sample: int = 6) -> dict[str, torch.Tensor]:
    """Masks that fall at different speeds: the first never moves, every other is pruned, the last first."""
    speeds = torch.arange(sample) * 1.5 * 0.02 / steps / (sample - 1)
    masks = 0.02 - torch.arange(1, steps + 1).outer(speeds)
    for i in range(sample):
        gone = (masks[:, i] <= 0).nonzero()
        if len(gone):
            masks[gone[0, 0] :, i] = masks[gone[0, 0], i]
    return {
        "acip.size": torch.linspace(1, 0.4, steps),
        "acip.loss": torch.linspace(3, 4, steps),
        "acip.lambda": 1e-3 * 1.01 ** torch.arange(steps).float(),
        "acip.trajectories": masks,
        "acip.sample": torch.stack([torch.arange(sample), torch.arange(sample)], dim=1).int(),
    }


def a_comparison() -> Comparison:
    """Two methods, two corpora, two sizes; one of them without the second corpus at the smaller size."""
    results = []
    for method, adapters, factor in (("artifact", False, 2.0), ("svd-llm", False, 9.0), (HOSTILE, True, math.inf)):
        for corpus, base in (("c4", 30.0), ("wikipedia", 20.0)):
            for ratio in (0.9, 0.5):
                if (method, corpus, ratio) != ("svd-llm", "wikipedia", 0.5):
                    worse = 1.1 if corpus == "c4" else 1.0
                    results.append(
                        Result(method, adapters, corpus, ratio, ratio, 10, 40, base * factor * worse, 1, 0.5)
                    )
    return Comparison({}, {"c4": 30.0, "wikipedia": 20.0}, tuple(results))
