"""`x Wᵀ + b` by the fastest kernel that this processor has for it.

PyTorch hands float32 products to MKL, which takes its slower path on processors that are not Intel's and its
matrix-vector product on one core anywhere; oneDNN, which every CPU build of PyTorch also carries, does neither.
"""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.nn import functional as F

# Code for as many shapes as a few sizes need; oneDNN's own limit of 1024 costs over 100 MB more and saves no time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

_AVAILABLE = bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_WORTHWHILE = 2**18  # multiplications; below, setting oneDNN up costs more than it saves
_FEW = 32  # rows of x up to which W xᵀ is a tenth or more faster than x Wᵀ; beyond, both cost the same
_STEP = 32  # oneDNN generates code for every new shape, which takes as long as using it ten times


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear`, equal to it up to float32 rounding.

    Args:
        x: (..., in_features).
        weight: (out_features, in_features); a transposed view is fine.
        bias: (out_features,).
    """
    # For strides other than these oneDNN has no fast kernel; for gradients it has none at all.
    fast = suits(x, len(weight)) and (weight.is_contiguous() or weight.t().is_contiguous())
    if not fast or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))):
        return F.linear(x, weight, bias)
    rows = x.numel() // x.shape[-1]
    if rows == 1 or rows > _FEW or not weight.is_contiguous():
        return _product(x, weight, bias)
    # oneDNN copies its second factor into another order first; of W xᵀ that is the small one.
    y = _product(weight, x.reshape(rows, -1).contiguous()).t().contiguous().view(*x.shape[:-1], len(weight))
    return y if bias is None else y + bias


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def padded(width: int, weight: torch.Tensor) -> int:
    """How many rows of `weight` to multiply with when `width` of them are wanted: a number that comes again."""
    return min(-(-width // _STEP) * _STEP, len(weight)) if _applies(weight) else width


def suits(x: torch.Tensor, rows: int) -> bool:
    """Whether oneDNN is worth its overhead for the product of x (..., in_features) with `rows` rows of a weight."""
    return x.numel() * rows >= _WORTHWHILE and _applies(x)


def _applies(tensor: torch.Tensor) -> bool:
    return (
        _AVAILABLE
        and bool(torch.backends.mkldnn.enabled)
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


class Linear(nn.Linear):
    """An `nn.Linear` that computes with `linear`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


def adopt(model: nn.Module) -> None:
    """Make every plain `nn.Linear` of a model a `Linear`, in place; parameters, names and hooks stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
