"""A target layer while its directions are ranked: a masked factorization that drops pruned rows.

    x (tokens, n) ──► D (k, n) ──► z (tokens, k) ──► mask ──► U (k, m) ──► y (tokens, m)      + adapter(dropout(x))

The mask is 1 for every direction that is still there, so the forward pass is an ordinary low-rank product. Its
straight-through gradient `∂L/∂mask_i = Σ_tokens z_i ∂L/∂z_i` needs no matrix product besides those of the backward
pass, nor does any other statistic of the contributions `z_i ∂L/∂z_i` of single tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from ..model.layers import Adapter
from ..model.target_layers import named_layers

Layer = TypeVar("Layer", bound=nn.Module)
Statistic = Callable[[torch.Tensor], torch.Tensor]  # contributions (tokens, k) to mask gradients → float32 (k,)

_SHED = 1 / 32  # share of a layer's working rows that must be pruned before they are copied into smaller ones


@contextmanager
def swapped_modules(
    model: nn.Module, names: Collection[str], build: Callable[[str, nn.Linear], Layer]
) -> Iterator[list[Layer]]:
    """The model with other modules in place of these layers and its parameters frozen; restored afterwards."""
    targets = named_layers(model, names)
    trainable = {p: p.requires_grad for p in model.parameters()}
    model.requires_grad_(False)
    layers: list[Layer] = []
    try:
        for name, layer in targets.items():
            layers.append(build(name, layer))
            targets.replace(name, layers[-1])
        yield layers
    finally:
        for name, layer in targets.items():
            targets.replace(name, layer)
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


def gradients(contributions: torch.Tensor) -> torch.Tensor:
    """The masks' gradient, as a statistic."""
    return contributions.sum(0, dtype=torch.float32)


class _StraightThrough(torch.autograd.Function):
    """The identity on directions that are left; adds the statistic of their masks to the layer's."""

    @staticmethod
    def forward(ctx, z: torch.Tensor, layer: MaskedLinear, anchor: torch.Tensor):
        ctx.save_for_backward(z)
        ctx.mask, ctx.slot, ctx.statistic = layer.mask, layer.gradient, layer.statistic
        return z.view_as(z) if ctx.mask is None else z * ctx.mask

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (z,) = ctx.saved_tensors
        ctx.slot += ctx.statistic((z * gradient).flatten(0, -2))
        return gradient if ctx.mask is None else gradient * ctx.mask, None, None


class MaskedLinear(nn.Module):
    """A linear layer as the sum of its directions that are left, with or without an adapter beside it.

    Attributes:
        left: (k,) the directions in the working factors, ascending.
        mask: (k,) 0 where one of these is pruned already; None when none is.
        gradient: (k,) accumulated gradient of the loss with respect to the masks in `left`, or another statistic.
        dense: run the original weight instead, without adapter (the teacher of a distillation).
    """

    def __init__(
        self,
        layer: nn.Linear,
        down: torch.Tensor,
        up: torch.Tensor,
        left: torch.Tensor,
        adapter: Adapter | None = None,
        dropout: float = 0.0,
        statistic: Statistic = gradients,
    ):
        super().__init__()
        self.weight, self.bias, self.adapter, self.dropout = layer.weight, layer.bias, adapter, dropout
        self.statistic = statistic
        self.dense = False
        # The first layers read embeddings, which need no gradient: without this they would have no backward pass.
        self._anchor = torch.zeros((), device=up.device, requires_grad=True)
        self.down, self.up = down, up
        self._hold(left, down[left], up[left])

    def _hold(self, left: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> None:
        self.left, self.down, self.up = left, down, up
        self.mask: torch.Tensor | None = None
        self.gradient = torch.zeros(len(left), device=up.device)

    def prune(self, pruned: torch.Tensor) -> bool:
        """Take directions (r,) bool out; returns whether the working factors became smaller."""
        keep = ~pruned[self.left]
        if keep.sum() <= len(keep) * (1 - _SHED):
            self._hold(self.left[keep], self.down[keep], self.up[keep])
            return True
        self.mask = keep.to(self.up.dtype)
        return False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.dense:
            return F.linear(x, self.weight, self.bias)
        y = _StraightThrough.apply(F.linear(x, self.down), self, self._anchor) @ self.up
        if self.adapter is not None:
            y = y + self.adapter(F.dropout(x, self.dropout))
        return y if self.bias is None else y + self.bias
