"""The empirical Fisher information of masks, computed through explicit masks: slow, and plainly right."""

from __future__ import annotations

import torch
from torch.func import functional_call

from acip_core.model.base_model import BaseModel
from acip_core.model.factorization import Factors
from acip_core.model.target_layers import target_layers


def by_masks(
    base: BaseModel,
    factors: dict[str, Factors],
    windows: torch.Tensor,
    left: dict[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Σ_windows (∂NLL/∂mask_i)², with W(mask) = Uᵀ diag(mask) U W in place of every weight."""
    ones = {name: torch.ones(len(f.directions)) for name, f in factors.items()}
    masks = {name: (left[name].float() if left else one).requires_grad_() for name, one in ones.items()}
    totals = {name: torch.zeros(len(mask)) for name, mask in masks.items()}
    layers = target_layers(base.model)
    for window in windows:
        masked = {}
        for name, mask in masks.items():
            u = factors[name].directions
            masked[f"{name}.weight"] = u.T @ (mask[:, None] * (u @ layers[name].weight.detach()))
        logits = functional_call(base.model, masked, (window[None],)).logits[0, :-1]
        loss = -logits.log_softmax(-1).gather(1, window[1:, None]).mean()
        for name, gradient in zip(masks, torch.autograd.grad(loss, list(masks.values())), strict=True):
            totals[name] += gradient.square()
    return totals
