"""Where a model's weights are: on one device, or, where they do not fit, some of them in their files.

Knows names of devices and accelerate's device maps; not what reads the weights (`offloading`).
"""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate.utils import get_max_memory
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ..errors import ModelError
from .target_layers import decoder_blocks

DISK, AUTO = "disk", "auto"  # what `ACIP_DEVICE` may name besides a device


def default_place() -> torch.device | str:
    """What `ACIP_DEVICE` names, `disk` and `auto` too, otherwise the best device."""
    named = os.environ.get("ACIP_DEVICE", "")
    return named if named in (DISK, AUTO) else best_device()


def best_device() -> torch.device:
    """The device that `ACIP_DEVICE` names, otherwise CUDA when present, otherwise the CPU.

    Raises:
        ModelError: the named device is unknown or not present.
    """
    named = os.environ.get("ACIP_DEVICE")
    if not named or named in (DISK, AUTO):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=named).device
    except (RuntimeError, AssertionError):  # torch built without CUDA asserts
        raise ModelError(
            f"ACIP_DEVICE names `{named}`, which this machine does not have; set it to cpu, cuda, {DISK} or {AUTO}, or "
            "unset it."
        ) from None


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else get_max_memory()["cpu"]


def check_memory(numbers: int, dtype: torch.dtype, device: torch.device, location: str) -> None:
    """Refuse a model that a device's memory does not hold, before it is loaded.

    Args:
        numbers: of its weights.

    Raises:
        ModelError: it does not; the message says what fits.
    """
    needed, free = numbers * dtype.itemsize, free_bytes(device)
    if needed <= free:
        return
    fits = f"`ACIP_DEVICE={DISK}` leaves its blocks in their files"
    if 2 * numbers <= free:
        fits += f", bfloat16 (dtype='bfloat16') takes {2 * numbers / 1e9:.1f} GB"
    raise ModelError(
        f"The model '{location}' takes {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, but {device} has "
        f"{free / 1e9:.1f} GB free; {fits}, or name another device with ACIP_DEVICE."
    )


def placing(
    place: str, config: PreTrainedConfig, export_class: type[PreTrainedModel] | None, method: Any, location: str
) -> dict[str, Any]:
    """Options of transformers' `from_pretrained` that leave weights in their files.

    Raises:
        ModelError: these are no weights as a model runs them.
    """
    if method or export_class:
        kind = "quantized weights" if method else "weights in a form of their own"
        raise ModelError(
            f"'{location}' holds {kind}, which cannot stay on disk; name the model that it was made from, or a device "
            "with memory for it (ACIP_DEVICE=cpu or cuda)."
        )
    if place == AUTO:
        return {"device_map": AUTO}
    model = without_memory(config, None)
    return {"device_map": _block_map(model, decoder_blocks(model)[0], best_device())}


def without_memory(config: PreTrainedConfig, export_class: type[PreTrainedModel] | None) -> PreTrainedModel:
    """A configuration's model on the meta device."""
    with torch.device("meta"):
        return (
            export_class(config) if export_class else AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        )


def _block_map(model: nn.Module, prefix: str, device: torch.device) -> dict[str, str]:
    """accelerate's device map that leaves a model's decoder blocks in their files and puts the rest on a device.

    Args:
        prefix: name of the list of blocks.
    """
    blocks, path = model.get_submodule(prefix), prefix.split(".")
    places = {f"{prefix}.{name}": DISK for name, _ in blocks.named_children()}
    for depth, part in enumerate(path):
        parent = model.get_submodule(".".join(path[:depth]))
        others = [*dict(parent.named_children()), *dict(parent.named_parameters(recurse=False))]
        places |= {".".join([*path[:depth], name]): str(device) for name in others if name != part}
    return places
