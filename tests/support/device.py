"""Where tests run: the best device present, or the one that `ACIP_DEVICE` names.

Tiny models lie there and compute in float32 wherever that is, so that what is compared agrees within rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from acip_core.model.placement import best_device

DEVICE = torch.empty(0, device=best_device()).device  # with its index, as tensors say it


def bring_inputs(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """A forward pre-hook of all models: token ids that a test made go where the model is."""
    if not isinstance(module, PreTrainedModel):
        return None
    return tuple(x.to(module.device) if isinstance(x, torch.Tensor) else x for x in inputs)
