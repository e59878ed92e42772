"""The empirical Fisher score map: squared gradients of the loss with respect to each direction's mask, per parameter.

With `W = Σ_i u_i (u_iᵀ W)` and a mask on each term, the gradient of the loss at the full model is
`∂NLL/∂mask_i = u_iᵀ (∂NLL/∂W) Wᵀ u_i`: one ordinary backward pass per window gives it for all directions at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from ..base import target_layers
from ..errors import ModelError
from ..factorize import Factors
from ..progress import Progress, Steps
from .envelope import envelope_scores


def fisher_scores(
    model: nn.Module, factors: Mapping[str, Factors], windows: torch.Tensor, adapter_rank: int = 0
) -> Steps[dict[str, torch.Tensor]]:
    """Squared mask gradients per parameter.

    Args:
        windows: (windows, length) token ids.
        adapter_rank: of the adapters that will be trained for these scores; they count in a layer's size.

    Returns:
        float32 (r,) per layer: `fisher_gains` on the envelope of the layer's size.

    Raises:
        ModelError: the loss of a window is not finite.
    """
    gains = yield from fisher_gains(model, factors, windows)
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in target_layers(model).items()}
    return {name: envelope_scores(gain, shapes[name], adapter_rank) for name, gain in gains.items()}


def fisher_densities(
    model: nn.Module, factors: Mapping[str, Factors], windows: torch.Tensor
) -> Steps[dict[str, torch.Tensor]]:
    """Squared mask gradients per parameter of each direction alone, without the envelope: as `fisher_scores` else."""
    gains = yield from fisher_gains(model, factors, windows)
    return {
        name: gain / sum(layer.weight.shape)
        for (name, layer), gain in zip(target_layers(model).items(), gains.values(), strict=True)
    }


def fisher_gains(
    model: nn.Module, factors: Mapping[str, Factors], windows: torch.Tensor
) -> Steps[dict[str, torch.Tensor]]:
    """Float32 (r,) per layer: `Σ_windows (∂NLL/∂mask_i)²`; arguments and errors as `accumulated`."""
    return (yield from accumulated(torch.square, model, factors, windows))


def accumulated(
    of: Callable[[torch.Tensor], torch.Tensor],
    model: nn.Module,
    factors: Mapping[str, Factors],
    windows: torch.Tensor,
) -> Steps[dict[str, torch.Tensor]]:
    """Accumulate a function of the mask gradients over calibration windows.

    Args:
        of: elementwise, as `torch.square`.
        windows: (windows, length) token ids.

    Returns:
        float32 (r,) per layer: `Σ_windows of(∂NLL/∂mask_i)`.

    Raises:
        ModelError: the loss of a window is not finite.
    """
    targets = target_layers(model)
    totals = {name: torch.zeros(len(f.directions), device=f.directions.device) for name, f in factors.items()}
    trainable = {p: p.requires_grad for p in model.parameters()}
    model.requires_grad_(False)
    for layer in targets.values():
        layer.weight.requires_grad_(True)
    try:
        for index, window in enumerate(windows):
            ids = window[None].to(model.device)
            loss = model(ids, labels=ids, use_cache=False).loss
            if not torch.isfinite(loss):
                raise ModelError(
                    f"The loss of calibration window {index} is not finite; the model or its precision is broken."
                )
            weights = [layer.weight for layer in targets.values()]
            gradients = torch.autograd.grad(loss, weights, materialize_grads=True)  # zeros for experts left unused
            for name, weight, gradient in zip(targets, weights, gradients, strict=True):
                u = factors[name].directions
                totals[name] += of(((u @ gradient.float()) * (u @ weight.detach().float())).sum(1))  # (r,)
            yield Progress("scoring", index + 1, len(windows), f"loss {loss.item():.3f}")
    finally:
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
    return {name: total.float().cpu() for name, total in totals.items()}
