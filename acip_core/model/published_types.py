"""What a model's tensors take as published: the type of each, and the bytes of all.

Most are published in one type, some in a wider one. A tensor in memory says so by its values; of one that stays in its
file, the file does.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .base_model import BaseModel
from .offloading import in_its_file
from .size_planner import Footprint


def footprint(base: BaseModel, matrices: Mapping[str, nn.Module]) -> Footprint:
    """What a model as published stores outside the weights of some modules, shared parameters counted once."""
    model, width = base.model, base.stored_dtype.itemsize
    weights = {f"{name}.weight": module.get_parameter("weight") for name, module in matrices.items()}
    inside = {id(weight) for weight in weights.values()}
    others = {name: p for name, p in model.named_parameters() if id(p) not in inside}
    state = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in state}
    numbers = sum(p.numel() for p in others.values())
    extra = sum(published_bytes(name, t, base) for name, t in (others | buffers).items()) - width * numbers
    wider = tuple(published_bytes(name, weight, base) - weight.numel() * width for name, weight in weights.items())
    return Footprint(numbers, width, extra_bytes=extra, wider=wider)


def published_bytes(name: str, tensor: torch.Tensor, base: BaseModel) -> int:
    """Bytes of a model's tensor as published."""
    if (wider := kept_wider(name, tensor, base)) is not None:
        return wider.nbytes
    is_cast = tensor.dtype == base.dtype and (base.is_dequantized or is_exact(tensor, base.stored_dtype))
    return tensor.numel() * (base.stored_dtype if is_cast else tensor.dtype).itemsize


def kept_wider(name: str, tensor: torch.Tensor, base: BaseModel) -> torch.Tensor | None:
    """What the file holds of a model's tensor that stays there, if its published type is wider than most; else None."""
    if not tensor.is_meta:
        return None
    there = in_its_file(base.model, name)
    return None if is_exact(there, base.stored_dtype) else there


@torch.no_grad()
def is_exact(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor keeps its values in another dtype; True for one without values, on the meta device."""
    if torch.promote_types(tensor.dtype, dtype) == dtype or tensor.is_meta:
        return True
    return torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)
