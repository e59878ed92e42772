"""How close a cut is to the full model: perplexity, divergence and agreement of their next tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..progress import Progress, Steps
from ..training.autocast import mixed_precision
from ..training.distillation import divergence
from .perplexity import exp


@dataclass(frozen=True)
class Fidelity:
    """How close a cut is to text and to the full model: see `artifacts.comparison.Result`."""

    perplexity: float
    divergence: float
    agreement: float


def full_logits(model: PreTrainedModel, windows: torch.Tensor, corpus: str) -> Steps[tuple[torch.Tensor, float]]:
    """The full model's logits less their maximum, float16 (windows, length − 1, vocabulary), and its perplexity."""
    all_logits, losses = [], []
    for index, window in enumerate(windows):
        logits = _logits(model, window)
        losses.append(F.cross_entropy(logits, window[1:].to(logits.device)).item())
        all_logits.append((logits - logits.amax(-1, keepdim=True)).half().cpu())  # precise where it matters
        yield Progress(f"full model, {corpus}", index + 1, len(windows))
    return torch.stack(all_logits), exp(math.fsum(losses) / len(losses))


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
        yield Progress(label, index + 1, len(windows), f"{exp(mean[0]):.2f}, agrees {mean[2]:.0%}")
    return Fidelity(exp(mean[0]), mean[1], mean[2])


def _logits(model: PreTrainedModel, window: torch.Tensor) -> torch.Tensor:
    """Logits of all tokens but the last, float32 (length − 1, vocabulary)."""
    with torch.inference_mode(), mixed_precision(model.device):
        return model(window[None].to(model.device), use_cache=False).logits[0, :-1].float()
