"""What the gradient runs (scoring by pruning, adapters) share: precision, order of text, distillation, checkpoints."""

from __future__ import annotations

import logging
import math

import torch
from torch.nn import functional as F

log = logging.getLogger("acip")


def window_at(index: int, windows: int, seed: int) -> int:
    """Index of a run's `index`-th window: all windows in a new order each epoch."""
    epoch, position = divmod(index, windows)
    order = torch.randperm(windows, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
    return int(order[position])


def one_cycle(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: a linear warm-up of a twentieth, then a cosine to zero."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def distilled_loss(logits: torch.Tensor, ids: torch.Tensor, teacher: torch.Tensor | None, weight: float):
    """`weight · KL(teacher ‖ student) + (1 − weight) · NLL` of the next tokens, means per token in nats.

    Args:
        logits, teacher: (tokens, vocabulary), float32; the teacher is None where `weight` is 0.
        ids: (tokens,) the tokens to be predicted.
    """
    log_probabilities = F.log_softmax(logits, dim=-1)
    likelihood = F.nll_loss(log_probabilities, ids)
    if teacher is None:
        return likelihood
    return weight * divergence(teacher, log_probabilities) + (1 - weight) * likelihood


def divergence(teacher: torch.Tensor, log_probabilities: torch.Tensor) -> torch.Tensor:
    """Mean KL divergence per token from the teacher's logits to log-probabilities, both (tokens, vocabulary).

    Two dot products a token instead of elementwise `kl_div`, which takes longer; in one over all tokens, a float32 sum
    loses what most words of the vocabulary add, up to 0.07 nats.
    """
    p = teacher.softmax(dim=-1)
    negative_entropy = torch.linalg.vecdot(p, teacher) - teacher.logsumexp(dim=-1)
    return (negative_entropy - torch.linalg.vecdot(p, log_probabilities)).mean()
