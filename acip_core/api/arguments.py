"""What the API's functions accept in transformers' words, and what they refuse by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from ..errors import ArgumentError, ModelError, shown
from ..model.base_model import DEFAULT_MODEL
from ..model.placement import DISK, default_place
from ..paths import exists_here
from ..progress import Progress

OnProgress = Callable[[Progress], None]
DeviceMap = str | int | torch.device | Mapping[str, str | int | torch.device] | None

_CALLED_HERE = {  # keywords of transformers that have another name here
    "torch_dtype": "dtype",
    "use_auth_token": "token",
    "device": "device_map",
    "load_in_8bit": "precision",
    "load_in_4bit": "precision",
    "quantization_config": "precision",
}
# Options of transformers' `generate` that change the model all threads share, compile it at one size, or fetch code.
_NOT_GENERATED = ("custom_generate", "trust_remote_code", "assistant_early_exit", "compile_config")


def refuse_unknown(function: str, unknown: Mapping[str, object]) -> None:
    """Refuse keywords that a function does not take.

    Raises:
        ArgumentError: there are some; the message names the first.
    """
    for name in unknown:
        hint = f" (use '{_CALLED_HERE[name]}')" if name in _CALLED_HERE else ""
        raise ArgumentError(f"{function} takes no '{name}'{hint}.")


def refuse_options(options: Mapping[str, Any], config: GenerationConfig | None) -> None:
    """Refuse options of transformers' `generate` that do not work at a size of its own for each caller.

    Raises:
        ArgumentError: there are some; the message names the first.
    """
    for name in _NOT_GENERATED:
        if options.get(name) is not None or getattr(config, name, None) is not None:
            raise ArgumentError(f"AcipModel.generate does not support '{name}'; leave it out.")
    cache = options.get("cache_implementation") or getattr(config, "cache_implementation", None)
    if "static" in str(cache):
        raise ArgumentError(
            f"AcipModel.generate does not support cache_implementation='{cache}', which compiles the model at one "
            "size; leave it out."
        )


def model_at(source: str | None, revision: str | None) -> str | None:
    """A model's name with its revision; folders and files have none, as for transformers.

    Raises:
        ModelError: the embedded default has none either.
        ArgumentError: the name has one already.
    """
    if revision is None or (source is not None and exists_here(source)):
        return source
    if source is None or source.lower() == DEFAULT_MODEL:
        raise ModelError(f"The embedded default has no revision '{revision}'; name a model of the Hub.")
    return _with_revision(source, revision)


def artifact_at(artifact: str | Path | None, revision: str | None) -> str | Path | None:
    """An artifact's name with its revision; folders have none.

    Raises:
        ArgumentError: no artifact is named, or its name has a revision already.
    """
    if revision is None:
        return artifact
    if artifact is None:
        raise ArgumentError("An 'artifact_revision' belongs to an artifact on the Hub; name it with 'artifact'.")
    return artifact if exists_here(artifact) else _with_revision(str(artifact), revision)


def _with_revision(name: str, revision: str) -> str:
    if "@" in name:
        raise ArgumentError(f"'{name}' names a revision already; leave out '{revision}'.")
    return f"{name}@{revision}"


def one_place(device_map: DeviceMap) -> torch.device | str:
    """The device that a transformers device map puts the whole model on, or what else `load_base` knows.

    Raises:
        ModelError: it names several, or one that this machine does not have.
    """
    if device_map == "auto":
        return default_place()
    if device_map == DISK:
        return DISK
    if isinstance(device_map, Mapping):
        devices = set(device_map.values())
        device_map = devices.pop() if len(devices) == 1 else shown(dict(device_map))
    try:
        named = torch.get_default_device() if device_map is None else torch.device(device_map)
        return torch.empty(0, device=named).device
    except (RuntimeError, AssertionError, TypeError, ValueError):  # torch built without CUDA asserts
        raise ModelError(
            f"A model runs on one device, which device_map={shown(device_map)} does not name on this machine; "
            "use auto, cpu, cuda or disk."
        ) from None
