"""Whether two artifacts say the same."""

from __future__ import annotations

import torch

from acip_core.artifacts.artifact import Artifact


def same(one: Artifact, other: Artifact) -> bool:
    assert one.adapters is not None and other.adapters is not None
    tensors = [(one.scores[name], other.scores[name]) for name in one.scores]
    tensors += [(one.adapters[name].b, other.adapters[name].b) for name in one.adapters]
    tensors += [(one.history[name], other.history[name]) for name in one.history]
    return one.curves == other.curves and all(torch.equal(a, b) for a, b in tensors)
