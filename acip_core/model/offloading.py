"""Weights that stay in the checkpoint's files until they are used: accelerate's device maps and hooks.

In a model that was loaded with a device map, a layer whose weight is on the meta device has accelerate's hook, which
reads it, memory-mapped, for every call and drops it afterwards. Here such weights are read outside of calls, too, one
at a time, or kept for as long as a block is at work; the banks of elastic layers lie in files of their own.

Knows modules and files; nothing of factors, scores or sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, cast

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import send_to_device
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.accelerate import load_offloaded_parameter

from ..errors import ModelError
from ..storage.atomic import atomic_path
from ..storage.heap import give_heap_back
from ..storage.scratch import ScratchFolder
from ..storage.verified import save_tensors
from .layers import ElasticLinear

_BANK = ("down", "up")


def is_offloaded(module: nn.Module) -> bool:
    """Whether any of its parameters is read only when it is used."""
    return any(parameter.is_meta for parameter in module.parameters())


def check_in_memory(model: PreTrainedModel, what: str, instead: str = "") -> None:
    """Refuse what is made of all of a model's weights at once, or written into them, where some stay in their files.

    A tensor that lies in a file takes what is copied into it without a word and without effect.

    Args:
        what: would be made; the sentence's subject, in the plural.
        instead: other ways out, which end with "or ".

    Raises:
        ModelError: some do.
    """
    if is_offloaded(model):
        raise ModelError(
            f"The weights of {model.name_or_path} stay on disk, where {what} cannot be made; use {instead}a device "
            "that holds the model (ACIP_DEVICE=cpu or cuda, device_map in Python)."
        )


def one_pass_at_a_time(model: PreTrainedModel) -> None:
    """Have threads that call a model wait for each other.

    The hooks put what they read into the modules, which all threads share, and take it out after the call. The holes
    that this leaves go back to the system.
    """
    forward, lock = model.forward, RLock()

    @wraps(forward)
    def alone(*args: Any, **kwargs: Any) -> Any:
        with lock:
            try:
                return forward(*args, **kwargs)
            finally:
                give_heap_back()

    model.forward = alone


def stored(module: nn.Module, name: str = "weight") -> torch.Tensor:
    """A parameter or buffer of a layer; where it is not in memory, as its file holds it, memory-mapped."""
    tensor = getattr(module, name)
    if not tensor.is_meta:
        return tensor.detach()
    hook: Any = module._hf_hook
    return hook.weights_map[name].to(hook.execution_device)


def in_its_file(model: PreTrainedModel, name: str) -> torch.Tensor:
    """A model's tensor that stays in its file, memory-mapped, in the type that it has there."""
    owner, _, own = name.rpartition(".")
    while not hasattr(model.get_submodule(owner), "_hf_hook"):
        owner, _, last = owner.rpartition(".")
        own = f"{last}.{own}"
    weights: Any = cast(Any, model.get_submodule(owner))._hf_hook.weights_map
    if isinstance(weights, _WithBank):
        weights = weights.of_layer
    place = weights.dataset.index.get(f"{weights.prefix}{own}", {})
    if "safetensors_file" not in place:  # in memory, beside an accelerator
        return weights[own]
    with safe_open(place["safetensors_file"], "pt") as file:
        return file.get_tensor(place["weight_name"])


class StoredWeights(Mapping[str, torch.Tensor]):
    """The weights (out_features, in_features) of some layers by name, each read when it is asked for."""

    def __init__(self, layers: Mapping[str, nn.Linear]):
        self.layers = layers

    def __getitem__(self, name: str) -> torch.Tensor:
        return stored(self.layers[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


def stored_state(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """A model's state dict, one tensor at a time."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        yield name, load_offloaded_parameter(model, name) if tensor.is_meta else tensor.detach()


@contextmanager
def resident(module: nn.Module) -> Iterator[None]:
    """All of a module's weights in memory within the block, so that many calls read them once; none is left."""
    with ExitStack() as stack:
        for part in module.modules():
            hook = getattr(part, "_hf_hook", None)
            if isinstance(hook, AlignDevicesHook) and hook.offload:
                hook.pre_forward(part)
                hook.offload = False
                stack.callback(_release, part, hook)
        yield
    give_heap_back()


def _release(part: nn.Module, hook: AlignDevicesHook) -> None:
    hook.offload = True
    hook.post_forward(part, None)


class BankHook(AlignDevicesHook):
    """Reads an elastic layer's weight, bias and bank, memory-mapped, for every call.

    Args:
        replaced: the hook of the linear layer that the elastic one replaces.
        path: of the file with its bank.
        folder: where that is.
    """

    def __init__(self, replaced: AlignDevicesHook, path: Path, folder: ScratchFolder):
        weights = _WithBank(replaced.weights_map, path)
        super().__init__(replaced.execution_device, offload=True, weights_map=weights)
        self.path, self._folder = path, folder

    def init_hook(self, module: nn.Module) -> nn.Module:
        self.keep(module)
        return module

    def keep(self, module: nn.Module) -> None:
        """Write a layer's bank to its file, and drop it and the weight.

        Raises:
            StorageError: it cannot be written.
        """
        with atomic_path(self.path) as temporary:  # who still reads the file before keeps it
            save_tensors({name: getattr(module, name).cpu() for name in _BANK}, temporary)
        self.post_forward(module, None)

    def load(self, module: nn.Module) -> None:
        for name in [name for name, parameter in module._parameters.items() if parameter is not None]:
            module._parameters[name] = nn.Parameter(self._read(name), requires_grad=False)
        module._buffers |= {name: self._read(name) for name in _BANK}

    def _read(self, name: str) -> torch.Tensor:
        assert self.weights_map is not None
        return self.weights_map[name].to(self.execution_device)

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if self.offload:
            self.load(module)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        if self.offload:
            for tensors in (module._parameters, module._buffers):
                tensors |= {name: _emptied(tensor) for name, tensor in tensors.items() if tensor is not None}
            cast(ElasticLinear, module).forget_products()
        return output


def _emptied(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


class _WithBank(Mapping[str, torch.Tensor]):
    """What a layer's weights are read from, and its bank's file.

    Attributes:
        of_layer: the former.
    """

    def __init__(self, weights: Any, path: Path):
        self.of_layer, self._path = weights, path

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in _BANK:
            return self.of_layer[name]
        with safe_open(self._path, "pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter((*self.of_layer, *_BANK))

    def __len__(self) -> int:
        return len(self.of_layer) + len(_BANK)


def keep_on_disk(layer: nn.Module, replaced: nn.Module, folder: ScratchFolder) -> None:
    """Move an elastic layer's bank to a file, where the layer that it replaces has its weight in one.

    Raises:
        StorageError: it cannot be written.
    """
    hook: Any = replaced._hf_hook
    path = folder.path / f"{len(list(folder.path.iterdir()))}.safetensors"
    add_hook_to_module(layer, BankHook(hook, path, folder))


@contextmanager
def changing(layer: nn.Module) -> Iterator[None]:
    """An elastic layer's bank in memory within the block; if it lies in a file, that is written anew afterwards."""
    hook = getattr(layer, "_hf_hook", None)
    if isinstance(hook, BankHook):
        hook.load(layer)
    yield
    if isinstance(hook, BankHook):
        hook.keep(layer)
