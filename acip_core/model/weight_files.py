"""Contents of a checkpoint's files before a model is made: settings, adapters, names and types of tensors.

Knows files; not models.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import load_state_dict
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)
from transformers.utils.hub import get_checkpoint_shard_files

from ..errors import ModelError
from .target_layers import FLOATS

_COUNTS = re.compile(r"^(num|n)_|layers?$")  # what a configuration class or a model makes one object each of
MOST = 1_000_000


@dataclass(frozen=True)
class Stored:
    """The tensors of a checkpoint's files.

    Attributes:
        tensors: shapes and types by name, on the meta device.
        dtype: the floating-point type that most numbers have.
        files: the file of each tensor.
    """

    tensors: dict[str, torch.Tensor]
    dtype: torch.dtype
    files: dict[str, Path]


def refuse_adapter(location: str, where: dict[str, Any]) -> None:
    """Refuse an adapter beside the weights, which transformers would inject wherever PEFT is installed.

    Raises:
        ModelError: there is one; the message says how to merge it.
    """
    path = find(location, ADAPTER_CONFIG_NAME, where)
    if path is None:
        return
    settings = read_json(path)
    kind, base = settings.get("peft_type", "PEFT"), settings.get("base_model_name_or_path")
    if find(location, "acip.json", where) is not None:
        raise ModelError(
            f"'{location}' holds an artifact of this program, not only a model; move the artifact's files to a folder "
            "of their own and name that with --artifact."
        )
    if find(location, CONFIG_NAME, where) is None:
        raise ModelError(
            f"'{location}' holds only a {kind} adapter of the model {base!r}; merge the two with PEFT "
            "(`PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)`), save the "
            "tokenizer there too, and name that folder."
        )
    raise ModelError(
        f"A {kind} adapter ({ADAPTER_CONFIG_NAME}) lies beside the model '{location}'; merge it with PEFT "
        "(`PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)`) and name the merged "
        f"folder, or name a folder without {ADAPTER_CONFIG_NAME} for the model alone."
    )


def find(location: str, name: str, where: dict[str, Any]) -> Path | None:
    """A file of a folder or a repository, fetched if need be; None where there is none of that name."""
    found = cached_file(location, name, _raise_exceptions_for_missing_entries=False, **where)
    return Path(found) if found else None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: it holds none, whatever the damage.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"The file {path} is damaged ({type(error).__name__}); download it again.") from None
    if not isinstance(content, dict):
        raise ModelError(f"The file {path} is damaged (it holds no JSON object); download it again.")
    return content


def check_counts(settings: Any, file: Path) -> None:
    """Refuse a configuration that names more layers than any model has, before anything is made of it.

    Raises:
        ModelError: such a number.
    """
    nested = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    for value in nested:
        check_counts(value, file)
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if _COUNTS.search(key) and isinstance(value, int | float) and not abs(value) <= MOST:
            raise ModelError(
                f"The file {file} is damaged ({key} is {value:.3g}, more than any model has); download it again."
            )


def read_stored(location: str, where: dict[str, Any]) -> Stored:
    """Shapes and types of the tensors in a checkpoint's files, from their headers.

    Raises:
        ModelError: a file is missing, or only a pointer to one.
    """
    tensors: dict[str, torch.Tensor] = {}
    files: dict[str, Path] = {}
    for file in _weight_files(location, where):
        if not file.is_file():
            raise ModelError(f"The file {file} of the model is missing; download it again.")
        with file.open("rb") as stream:
            if stream.read(32).startswith(b"version https://git-lfs"):
                raise ModelError(f"The file {file} is a Git LFS pointer, not weights; fetch them with `git lfs pull`.")
        try:
            held = load_state_dict(file, map_location="meta")
        except Exception as error:
            raise ModelError(f"The file {file} is damaged ({error!s:.100}); download it again.") from error
        tensors |= held
        files |= dict.fromkeys(held, file)
    numbers: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        numbers[tensor.dtype] += tensor.numel() if tensor.dtype in FLOATS[:3] else 0
    most = numbers.most_common(1)
    return Stored(tensors, most[0][0] if most and most[0][1] else torch.float32, files)


def _weight_files(location: str, where: dict[str, Any]) -> list[Path]:
    """The files that transformers takes the weights from, in its order of preference."""
    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        if (path := find(location, name, where)) is None:
            if os.path.lexists(there := Path(location) / name):
                raise ModelError(f"{there} of the model is no file; download it again.")
            continue
        if not name.endswith(".json"):
            return [path]
        shards = read_json(path).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise ModelError(f"The file {path} is damaged (it names no files); download it again.")
        return [Path(shard) for shard in get_checkpoint_shard_files(location, str(path), **where)[0]]
    raise ModelError(f"'{location}' holds no weights ({SAFE_WEIGHTS_NAME}); download them, or name another.")


def first_few(names: Iterable[str]) -> str:
    """`a, b, c and 4 more`, in order."""
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def reason_of(error: BaseException) -> str:
    """An error's message, cut to a sentence: its first line, and the next where the first only announces it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:200]
