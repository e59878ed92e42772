"""bfloat16 where the device multiplies it in hardware."""

from __future__ import annotations

from contextlib import nullcontext

import torch


def mixed_precision_is_native(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return device.type == "cuda"


def mixed_precision(device: torch.device):
    """bfloat16 autocast where it is native, otherwise nothing."""
    return torch.autocast(device.type, torch.bfloat16) if mixed_precision_is_native(device) else nullcontext()
