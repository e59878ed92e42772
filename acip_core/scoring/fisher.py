"""The default score map: empirical Fisher information of the full model, from statistics of the mask gradients.

With `W = Σ_i u_i (u_iᵀ W)`, latents `z = (U W) x` and a mask on each term, `∂NLL/∂mask_i = Σ_tokens z_i ∂NLL/∂z_i`: one
backward pass through the factors gives the contributions of every token for all directions at once, at any cut.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..errors import ModelError
from ..model import autocast
from ..model.autocast import mixed_precision
from ..model.factorization import Factors
from ..model.target_layers import named_layers
from ..progress import Progress, Steps
from ..training.data_parallel import evenly_shared, mean_over_processes
from ..training.sharding import sharded
from .envelope import envelope_scores
from .masked import MaskedLinear, Statistic, swapped_modules


def per_window(contributions: torch.Tensor) -> torch.Tensor:
    """`(∂NLL/∂mask_i)²`, the window as the sample of which the Fisher information is the mean."""
    return contributions.sum(0, dtype=torch.float32).square()


def per_token(contributions: torch.Tensor) -> torch.Tensor:
    """`Σ_tokens (z_i ∂NLL/∂z_i)²`, the token as the sample: hundreds of them a window, so much less noise."""
    return contributions.float().square().sum(0)


def fisher_scores(
    model: nn.Module, factors: Mapping[str, Factors], windows: torch.Tensor, adapter_rank: int = 0
) -> Steps[dict[str, torch.Tensor]]:
    """Float32 (r,) per layer: `fisher_gains` per parameter, on the concave envelope of the layer's size.

    Args:
        adapter_rank: of the adapters that will be trained for these scores; they count in a layer's size.
    """
    gains = yield from fisher_gains(model, factors, windows)
    shapes = named_layers(model, factors).shapes
    return {name: envelope_scores(gain, shapes[name], adapter_rank) for name, gain in gains.items()}


def fisher_densities(
    model: nn.Module, factors: Mapping[str, Factors], windows: torch.Tensor
) -> Steps[dict[str, torch.Tensor]]:
    """`fisher_gains` per parameter of a direction, without the envelope."""
    gains = yield from fisher_gains(model, factors, windows)
    shapes = named_layers(model, factors).shapes
    return {name: gain / sum(shapes[name]) for name, gain in gains.items()}


def fisher_gains(
    model: nn.Module, factors: Mapping[str, Factors], windows: torch.Tensor
) -> Steps[dict[str, torch.Tensor]]:
    """Float32 (r,) per layer: `Σ_windows (∂NLL/∂mask_i)²` at the full model; arguments and errors as `accumulated`."""
    return (yield from accumulated(per_window, model, factors, windows))


def accumulated(
    statistic: Statistic,
    model: nn.Module,
    factors: Mapping[str, Factors],
    windows: torch.Tensor,
    left: Mapping[str, torch.Tensor] | None = None,
) -> Steps[dict[str, torch.Tensor]]:
    """Accumulate a statistic of the mask gradients over calibration windows; the model is unchanged afterwards.

    Under `accelerate launch` every process reads its share of the windows, if there is an even one, and all end with
    the same sums; with FSDP in its configuration, the model is divided over them meanwhile.

    Args:
        statistic: of one window's contributions.
        windows: (windows, length) token ids.
        left: bool (r,) per layer, the directions that the model is cut to; all by default.

    Returns:
        float32 (r,) per layer, zero for directions that are not left.

    Raises:
        ModelError: the loss of a window is not finite.
    """
    native = autocast.mixed_precision_is_native(next(model.parameters()).device)

    def masked(name: str, layer: nn.Linear) -> MaskedLinear:
        dtype = torch.bfloat16 if native else layer.weight.dtype
        up, down = factors[name].up, factors[name].down(layer.weight.detach().float())
        directions = torch.arange(len(up)) if left is None else left[name].nonzero().squeeze(1)
        return MaskedLinear(layer, down.to(dtype), up.to(dtype), directions.to(up.device), statistic=statistic)

    own = windows[list(evenly_shared(range(len(windows))))]
    with swapped_modules(model, factors, masked) as layers, sharded(model):
        for index, window in enumerate(own):
            ids = window[None].to(model.device)
            with mixed_precision(ids.device):
                loss = model(ids, labels=ids, use_cache=False).loss
            if not torch.isfinite(loss):
                raise ModelError(
                    f"The loss of calibration window {index} is not finite; the model or its precision is broken."
                )
            loss.backward()
            yield Progress("scoring", index + 1, len(own), f"loss {loss.item():.3f}")
    totals = {}
    for (name, found), layer in zip(factors.items(), layers, strict=True):
        total = mean_over_processes(layer.gradient) * (len(windows) / len(own))
        totals[name] = torch.zeros(len(found.directions)).index_copy_(0, layer.left.cpu(), total.cpu())
    return totals
