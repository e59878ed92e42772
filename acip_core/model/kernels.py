"""`x Wᵀ + b` by the fastest kernel that this processor has for it.

PyTorch hands float32 products to MKL, which multiplies a matrix with one vector on one core, and on processors of AMD
never uses AVX512; oneDNN, which every CPU build of PyTorch also carries, does both, but copies its second factor into
another order at every call. Which is faster for how many rows of x was measured (benchmarks/LOG.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

# Code for as many shapes as a few sizes need; oneDNN's own limit of 1024 costs over 100 MB more and saves no time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

_AVAILABLE = bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_WIDE = torch.backends.cpu.get_cpu_capability() == "AVX512"  # without it MKL is no slower on any processor
_WORTHWHILE = 2**18  # multiplications; below, setting oneDNN up costs more than it saves
FEW, _SEVERAL, _MANY = 5, 32, 128  # rows of x up to, or from, which another kernel is the fastest
_SHARED = 2**15  # numbers of a weight that are read faster by all cores than by one
_LARGE = 2**21  # numbers of a weight, such as the head's, that no cache holds
_STEP = 32  # oneDNN generates code for every new shape, which takes as long as using it ten times

TokenProduct = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear`, equal to it up to float32 rounding.

    Args:
        x: (..., in_features).
        weight: (out_features, in_features); a transposed view is fine.
        bias: (out_features,).
    """
    straight, rows, large = weight.is_contiguous(), x.numel() // (x.shape[-1] or 1), weight.numel() >= _LARGE
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return F.linear(x, weight, bias)
    if 1 < rows <= FEW and straight and applies(x):
        return _turned(x, weight, bias)
    # For strides other than these oneDNN has no fast kernel; for gradients it has none at all.
    few = 1 < rows <= FEW and not _WIDE
    if few or not suits(x, len(weight)) or not (straight or weight.t().is_contiguous()):
        return F.linear(x, weight, bias)
    if rows == 1 and straight and not large:
        return vector_product(weight, x.reshape(-1), bias).view(*x.shape[:-1], -1)
    if (rows == 1 or rows >= _MANY) and not _WIDE and not large:
        return F.linear(x, weight, bias)
    if rows == 1 or rows > _SEVERAL or not straight:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    # Of W xᵀ the second factor is the small one.
    y = torch.ops.mkldnn._linear_pointwise(weight, x.reshape(rows, -1).contiguous(), None, "none", [], "")
    return _with_bias(y.t().contiguous().view(*x.shape[:-1], -1), bias)


def vector_product(weight: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`weight @ x + bias`, equal to it up to float32 rounding; no gradients.

    Args:
        weight: (out_features, in_features); a transposed view is fine.
        x: (in_features,).
        bias: (out_features,).
    """
    return token_product(weight, bias)(x[None], None)[0]


def token_product(weight: torch.Tensor, bias: torch.Tensor | None = None) -> TokenProduct:
    """`vector_product` of a weight with whatever comes, the kernel chosen beforehand: choosing takes as long as a
    small product.

    Returns:
        A function of x (1, in_features), contiguous, and `pair(x)`, None where no other product needs it; it returns
        (1, out_features).
    """
    straight, size = weight.is_contiguous(), weight.numel()
    if not applies(weight):
        return lambda x, _: F.linear(x, weight, bias)
    if size >= _LARGE or (_WIDE and not straight and size >= _WORTHWHILE):
        return lambda x, _: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    if straight and size >= _SHARED:  # MKL multiplies with two equal vectors on all cores, with one on one
        return lambda x, both: _with_bias(torch.mm(weight, pair(x) if both is None else both).t()[:1], bias)
    return lambda x, _: _with_bias(torch.mv(weight, x[0])[None], bias)


def pair(x: torch.Tensor) -> torch.Tensor:
    """A vector (1, features) twice, as columns (features, 2)."""
    return x.expand(2, -1).contiguous().t()


def _turned(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """MKL's W xᵀ, which for a few rows takes half the time of its x Wᵀ."""
    y = torch.mm(weight, x.reshape(-1, x.shape[-1]).t())
    return _with_bias(y.t().contiguous().view(*x.shape[:-1], -1), bias)


def _with_bias(y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return y if bias is None else y + bias


def padded_rows(width: int, most: int, x: torch.Tensor) -> int:
    """Rows of a weight to multiply with when `width` of them are wanted: one of few numbers, as each compiles a kernel.

    Args:
        most: rows that the weight has.
        x: what they are multiplied with; where no code is generated for that product, just those that are wanted.
    """
    generated = suits(x, width) and (_WIDE or FEW < x.numel() // x.shape[-1] < _MANY)
    return padded(width, most) if generated else width


def padded(width: int, most: int) -> int:
    """The next of few numbers of rows, at most `most`."""
    return min(-(-width // _STEP) * _STEP, most)


def suits(x: torch.Tensor, rows: int) -> bool:
    """Whether oneDNN is worth its overhead for the product of x (..., in_features) with `rows` rows of a weight."""
    return x.numel() * rows >= _WORTHWHILE and applies(x)


def applies(tensor: torch.Tensor) -> bool:
    """Whether PyTorch's own kernels are slow for this tensor: float32 on the CPU.

    In less precision they are also the only ones that add a bias before they round.
    """
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

    def token_product(self) -> TokenProduct:
        """One token's features (1, in_features) through the layer, in inference."""
        return token_product(self.weight, self.bias)


def use_fast_linears(model: nn.Module) -> None:
    """Make every plain `nn.Linear` of a model a `Linear`, in place; parameters, names and hooks stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
