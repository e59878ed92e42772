"""Weights divided over processes while gradients run: PyTorch's FSDP2, where `accelerate launch` was told to use it.

Every decoder block gives way to a copy whose frozen weights and factors `fully_shard` divides; a process gathers those
of one block at a time. What is trained stays whole in every process, its gradients averaged (`data_parallel`). The
blocks themselves wait on the CPU and come back afterwards.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from ..model.cut import Cut
from ..model.target_layers import decoder_blocks

_FACTORS = ("down", "up")


def is_sharding() -> bool:
    """Whether this process is one of several that accelerate's configuration wants weights divided over."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and PartialState().num_processes > 1


@contextmanager
def sharded(model: nn.Module, trained: Collection[nn.Parameter] = ()) -> Iterator[None]:
    """The model with divided blocks within this; nothing changes where there is one process, or no FSDP is asked for.

    Args:
        model: all of whose parameters are frozen but these.
        trained: they stay whole.
    """
    if not is_sharding():
        yield
        return
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (PartialState().num_processes,))
    _, blocks = decoder_blocks(model)
    whole = list(blocks)
    try:
        for index, block in enumerate(whole):
            blocks[index] = _divided(block, set(trained), mesh)
            _move(block, torch.device("cpu"), set(trained))
        yield
    finally:
        for index, block in enumerate(whole):
            blocks[index] = block
            _move(block, device, set(trained))


def _divided(block: nn.Module, trained: set[nn.Parameter], mesh: DeviceMesh) -> nn.Module:
    """A copy of a block that has its modules' tensors in common with it until they are divided."""
    common = [value for module in block.modules() for value in _values(module)]
    divided = copy.deepcopy(block, {id(value): value for value in common})
    for module in divided.modules():
        for name in _FACTORS:
            factor = getattr(module, name, None)
            if isinstance(factor, torch.Tensor) and not isinstance(factor, nn.Parameter):
                delattr(module, name)
                module.register_parameter(name, nn.Parameter(factor, requires_grad=False))
    parameters = [p for p in divided.parameters() if p not in trained]
    (kind, _), *_ = Counter(p.dtype for p in parameters).most_common(1)
    others = {p for p in parameters if p.dtype != kind}  # FSDP gathers one type
    fully_shard(divided, mesh=mesh, reshard_after_forward=True, ignored_params=trained | others)
    return divided


def _values(module: nn.Module) -> list[object]:
    """What a module and its copy have in common: tensors, and the ranks in force."""
    held = [*vars(module).values(), *module._parameters.values(), *module._buffers.values()]
    return [value for value in held if isinstance(value, torch.Tensor | Cut)]


@torch.no_grad()
def _move(block: nn.Module, device: torch.device, trained: set[nn.Parameter]) -> None:
    for parameter in block.parameters():
        if parameter not in trained:
            parameter.data = parameter.data.to(device)
    for module in block.modules():
        for name in _FACTORS:
            factor = getattr(module, name, None)
            if isinstance(factor, torch.Tensor):
                setattr(module, name, factor.to(device))
