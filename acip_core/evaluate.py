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
from .training import divergence, mixed_precision

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


@dataclass(frozen=True)
class Fidelity:
    """How close a cut is to text and to the full model: see `compare.Result`."""

    perplexity: float
    divergence: float
    agreement: float


def full_logits(model: PreTrainedModel, windows: torch.Tensor, corpus: str) -> Steps[tuple[torch.Tensor, float]]:
    """The full model's logits less their maximum, float16 (windows, length − 1, vocabulary), and its perplexity."""
    kept, losses = [], []
    for index, window in enumerate(windows):
        logits = _logits(model, window)
        losses.append(F.cross_entropy(logits, window[1:].to(logits.device)).item())
        kept.append((logits - logits.amax(-1, keepdim=True)).half().cpu())  # precise where it matters
        yield Progress(f"full model, {corpus}", index + 1, len(windows))
    return torch.stack(kept), _exp(math.fsum(losses) / len(losses))


def measure_fidelity(
    model: PreTrainedModel, windows: torch.Tensor, teacher: torch.Tensor, label: str
) -> Steps[Fidelity]:
    """Perplexity, mean KL divergence from the full model in nats, and top-1 agreement with it, at the size in force.

    In bfloat16 where that is native, as the full model's logits from `full_logits`.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for index, (window, full) in enumerate(zip(windows, teacher, strict=True)):
        logits = _logits(model, window)
        full = full.to(logits.device).float()
        log_probabilities = F.log_softmax(logits, dim=-1)
        loss = F.nll_loss(log_probabilities, window[1:].to(logits.device))
        agreement = (logits.argmax(-1) == full.argmax(-1)).float().mean()
        sums += torch.stack([loss, divergence(full, log_probabilities), agreement]).double().cpu()
        mean = (sums / (index + 1)).tolist()
        yield Progress(label, index + 1, len(windows), f"{_exp(mean[0]):.2f}, agrees {mean[2]:.0%}")
    return Fidelity(_exp(mean[0]), mean[1], mean[2])


def _logits(model: PreTrainedModel, window: torch.Tensor) -> torch.Tensor:
    """Logits of all tokens but the last, float32 (length − 1, vocabulary)."""
    with torch.inference_mode(), mixed_precision(model.device):
        return model(window[None].to(model.device), use_cache=False).logits[0, :-1].float()
