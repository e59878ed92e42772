"""Perplexity on fixed-length windows, yielded while it is measured; curves over sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from .artifact import Curve, CurvePoint
from .elastic import ElasticModel
from .errors import ModelError
from .progress import Progress, Steps

WINDOW = 512  # tokens per evaluation window


@dataclass(frozen=True)
class Perplexity:
    """A running estimate of perplexity.

    Attributes:
        value: exp of the mean negative log-likelihood per predicted token so far.
        low, high: one standard error (over windows) below and above.
        tokens: predicted tokens so far.
        done, total: windows.
    """

    value: float
    low: float
    high: float
    tokens: int
    done: int
    total: int


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
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)


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
        spread = math.fsum((s / per_window - mean) ** 2 for s in sums)
        error = math.sqrt(spread / (len(sums) - 1) / len(sums)) if len(sums) > 1 else 0.0
        yield Perplexity(_exp(mean), _exp(mean - error), _exp(mean + error), tokens, index + 1, len(windows))


def _exp(x: float) -> float:
    return math.exp(x) if not x > 700 else math.inf


def measure_curve(
    elastic: ElasticModel,
    windows: torch.Tensor,
    ratios: Sequence[float],
    label: tuple[str, str, str],
    known: dict[float, CurvePoint],
) -> Steps[Curve]:
    """Perplexity at several sizes on the same text, 100 % always among them.

    Args:
        windows: (windows, length) held-out token ids.
        ratios: size ratios, adapters counted.
        label: method, corpus and split, for the curve.
        known: points measured before by requested ratio; new ones are added while it goes, so a caller can keep them.

    Returns:
        The curve; sizes at which the perplexity is beyond all numbers are left out.

    Raises:
        ModelError: the base model's own perplexity is not finite.
    """
    method, corpus, split = label
    wanted = sorted({1.0, *ratios}, reverse=True)
    for index, ratio in enumerate(wanted):
        if ratio in known:
            continue
        plan = elastic.planner.at_ratio(ratio)
        with elastic.at(plan):
            for step in measure_perplexity(elastic.model, windows):
                done = index * len(windows) + step.done
                note = f"{ratio:.0%}: {step.value:.2f}"
                yield Progress(f"measuring {method}, {corpus}", done, len(wanted) * len(windows), note)
        known[ratio] = CurvePoint(plan.ratio, plan.parameters, plan.bytes, step.value)
    if not math.isfinite(known[1.0].perplexity):
        raise ModelError(f"The base model's perplexity on {corpus} is not finite; the model is damaged.")
    points = tuple(known[ratio] for ratio in wanted if math.isfinite(known[ratio].perplexity))
    return Curve(method, corpus, split, windows.shape[0] * (windows.shape[1] - 1), points[0].perplexity, points)
