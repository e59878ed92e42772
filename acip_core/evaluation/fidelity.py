"""How close a cut is to the full model: perplexity, divergence and agreement of their next tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..model.autocast import mixed_precision
from ..progress import Progress, Steps
from ..training.distillation import divergence
from .perplexity import exp, standard_error

_AT_ONCE = {"cuda": 8}  # windows in a pass; elsewhere one, whose logits are 0.1 GB


@dataclass(frozen=True)
class Fidelity:
    """How close a cut is to text and to the full model: see `artifacts.comparison.Result`.

    Attributes:
        error: as `curves.CurvePoint`.
    """

    perplexity: float
    divergence: float
    agreement: float
    error: float


def full_logits(model: PreTrainedModel, windows: torch.Tensor, corpus: str) -> Steps[tuple[torch.Tensor, float]]:
    """The full model's logits less their maximum, float16 (windows, length − 1, vocabulary), and its perplexity.

    They stay on the model's device.
    """
    all_logits, losses = [], []
    for part in _parts(model, windows):
        logits = _logits(model, part)
        losses.append(F.cross_entropy(logits.flatten(0, 1), _next(part, logits)).item() * len(part))
        all_logits.append((logits - logits.amax(-1, keepdim=True)).half())  # precise where it matters
        yield Progress(f"full model, {corpus}", sum(map(len, all_logits)), len(windows))
    return torch.cat(all_logits), exp(math.fsum(losses) / len(windows))


def measure_fidelity(
    model: PreTrainedModel, windows: torch.Tensor, teacher: torch.Tensor, label: str
) -> Steps[Fidelity]:
    """Perplexity, mean KL divergence from the full model in nats, and top-1 agreement with it, at the size in force.

    In bfloat16 where that is native, as the full model's logits from `full_logits`.
    """
    sums, done, rises = torch.zeros(3, dtype=torch.float64), 0, []
    for part in _parts(model, windows):
        logits = _logits(model, part).flatten(0, 1)  # (tokens, vocabulary)
        full = teacher[done : done + len(part)].to(logits.device).flatten(0, 1).float()
        log_probabilities = F.log_softmax(logits, dim=-1)
        token = _next(part, logits)
        loss = F.nll_loss(log_probabilities, token)
        rise = F.nll_loss(log_probabilities, token, reduction="none") - F.cross_entropy(full, token, reduction="none")
        rises += rise.view(len(part), -1).mean(1).tolist()
        agreement = (logits.argmax(-1) == full.argmax(-1)).float().mean()
        done += len(part)
        sums += torch.stack([loss, divergence(full, log_probabilities), agreement]).double().cpu() * len(part)
        mean = (sums / done).tolist()
        yield Progress(label, done, len(windows), f"{exp(mean[0]):.2f}, agrees {mean[2]:.0%}")
    return Fidelity(exp(mean[0]), mean[1], mean[2], standard_error(rises))


def _parts(model: PreTrainedModel, windows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return windows.split(_AT_ONCE.get(model.device.type, 1))


def _next(windows: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """(tokens,) what is to be predicted."""
    return windows[:, 1:].flatten().to(logits.device)


def _logits(model: PreTrainedModel, windows: torch.Tensor) -> torch.Tensor:
    """Logits of all tokens but the last of each window, float32 (windows, length − 1, vocabulary)."""
    with torch.inference_mode(), mixed_precision(model.device):
        return model(windows.to(model.device), use_cache=False).logits[:, :-1].float()
