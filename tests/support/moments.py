"""Random second moments with strongly unequal directions."""

from __future__ import annotations

import torch

from acip_core.model.second_moments import (
    Root,
)
from tests.support.tiny import generator


def random_moment(channels: int, seed: int = 5) -> torch.Tensor:
    """A positive definite second moment with strongly unequal directions."""
    x = torch.randn(4 * channels, channels, generator=generator(seed)) * torch.logspace(-1.5, 1, channels)
    x = x @ torch.randn(channels, channels, generator=generator(seed + 1))
    return x.T @ x / len(x)


def root_of(moment: torch.Tensor) -> Root:
    return Root(torch.linalg.cholesky(moment), torch.zeros(len(moment)))
