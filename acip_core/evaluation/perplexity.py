"""Perplexity on fixed-length windows, yielded while it is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

WINDOW = 512  # tokens per evaluation window
_AT_ONCE = 128  # tokens whose probabilities are held at a time, a quarter of a window's, beside its logits


@dataclass(frozen=True)
class Perplexity:
    """A running estimate of perplexity.

    Attributes:
        value: exp of the mean negative log-likelihood per predicted token so far.
        low, high: one standard error (over windows) below and above.
        tokens: predicted tokens so far.
        done, total: windows.
        losses: nats of each window so far, summed over its tokens.
    """

    value: float
    low: float
    high: float
    tokens: int
    done: int
    total: int
    losses: tuple[float, ...] = ()


def token_losses(model: PreTrainedModel, windows: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of every token but the first of each window, in nats.

    Args:
        windows: (batch, length) token ids.

    Returns:
        float32 (batch, length − 1).
    """
    ids = windows.to(model.device)
    with torch.inference_mode():
        logits = model(ids, use_cache=False).logits[:, :-1]
        losses = [
            F.cross_entropy(said.float().flatten(0, 1), tokens.flatten(), reduction="none").view(len(ids), -1)
            for said, tokens in zip(logits.split(_AT_ONCE, 1), ids[:, 1:].split(_AT_ONCE, 1), strict=True)
        ]
        return torch.cat(losses, 1)


def measure_perplexity(model: PreTrainedModel, windows: torch.Tensor) -> Iterator[Perplexity]:
    """Token-weighted perplexity over windows (windows, length), one at a time.

    Stop iterating to cancel; the last value yielded is the result. Runs at whatever size the model has at each step.
    """
    sums: list[float] = []
    for index, window in enumerate(windows):
        sums.append(token_losses(model, window[None]).double().sum().item())
        per_window = windows.shape[1] - 1
        tokens = per_window * len(sums)
        mean = math.fsum(sums) / tokens
        error = standard_error([s / per_window for s in sums])
        low, high = exp(mean - error), exp(mean + error)
        yield Perplexity(exp(mean), low, high, tokens, index + 1, len(windows), tuple(sums))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent values; 0 where there is one alone, which says nothing of it."""
    count = len(values)
    mean = math.fsum(values) / count
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count) if count > 1 else 0.0


def exp(x: float) -> float:
    return math.exp(x) if not x > 700 else math.inf
