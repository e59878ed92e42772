"""Files that hold their own digest: JSON and safetensors, read with one error for whatever damage they have.

The SHA-256 in a file is that of the file with zeros in the digest's place, so that a file and its digest cannot part
when a write is killed. Files without one, of earlier versions, are read all the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import ArtifactError
from .digests import check_regular, digest
from .mapped import mapped_tensors

T = TypeVar("T")
# All that reading and checking a damaged file raises; RuntimeError is JSON's for too deep a nesting, torch's for types.
DAMAGE = (
    SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
)  # fmt: skip
_BLANK = b"0" * 64
_SEAL = re.compile(rb'"sha256": ?"([0-9a-f]{64})"')
_LONGEST_JSON = 2**26  # bytes
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@contextmanager
def reporting_damage(path: Path, way_out: str) -> Iterator[None]:
    """Turn whatever a damaged file raises into one sentence that names it."""
    try:
        yield
    except DAMAGE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if isinstance(error, FileNotFoundError):
            raise ArtifactError(f"{path} is missing; {way_out}.") from None
        raise ArtifactError(f"{path} is damaged ({reason}); {way_out}.") from error


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 0) -> None:
    """Write a JSON object with its digest as the first field."""
    text = json.dumps({"sha256": _BLANK.decode(), **content}, indent=indent, ensure_ascii=False, allow_nan=False)
    data = text.encode() + b"\n"
    path.write_bytes(data.replace(_BLANK, digest(data).encode(), 1))


def read_json(path: Path, sealed: bool = False, checked: bool = True) -> Any:
    """What a JSON file holds, its digest checked and left out.

    Args:
        sealed: refuse a file without a digest.
        checked: False for a file that was edited on purpose.

    Raises:
        One of `DAMAGE`: it is not there, damaged, or no JSON.
    """
    if check_regular(path) > _LONGEST_JSON:
        raise ValueError(f"it is longer than {_LONGEST_JSON >> 20} MiB")
    data = path.read_bytes()
    content = json.loads(data.decode("utf-8"), parse_constant=_not_a_number)
    stated = content.pop("sha256", None) if isinstance(content, dict) else None
    if checked and (stated is not None or sealed):
        _compare(str(stated), digest(data.replace(str(stated).encode(), _BLANK, 1)))
    return content


def _not_a_number(text: str) -> float:
    raise ValueError(f"{text} in place of a number")


def _compare(stated: str, found: str) -> None:
    if stated != found:
        raise ValueError("its SHA-256 is another one than was written")


def listed(content: Any, name: str) -> list[Any]:
    """The list in the one field `name` of a JSON object; a bare list counts too, as in files that had no digest yet.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(content, dict) and set(content) == {name}:
        content = content[name]
    if not isinstance(content, list):
        raise ValueError(f"it does not hold {name}")
    return content


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with its digest among the metadata."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path, {**(metadata or {}), "sha256": _BLANK.decode()})
    place, _, right = _sealed(path)
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(right.encode())


def read_tensors(path: Path, mapped: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, its digest checked and left out where it has one.

    Args:
        mapped: as `mapped.mapped_tensors`, for those that nobody writes to.

    Raises:
        One of `DAMAGE`: it is not there or damaged.
    """
    check_regular(path)
    with safe_open(path, "pt") as file:  # checks the lengths first, so that nothing is read of a file of holes
        metadata = dict(file.metadata() or {})
        if metadata.pop("sha256", None) is not None:
            _, stated, found = _sealed(path)
            _compare(stated, found)
        if mapped:
            return mapped_tensors(path), metadata
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a mapping)


def _sealed(path: Path) -> tuple[int, str, str]:
    """Position of the digest in a safetensors file, the digest stated there, and the actual one."""
    with path.open("rb") as stream:
        start = stream.read(8)
        start += stream.read(int.from_bytes(start, "little"))
        found = _SEAL.search(start, 8)
        if found is None:
            raise ValueError("its digest is malformed")
        blocks = iter(lambda: stream.read(1 << 20), b"")
        right = digest(start[: found.start(1)], _BLANK, start[found.end(1) :], blocks)
    return found.start(1), found[1].decode(), right


def check_floats(name: str, tensor: torch.Tensor, dimensions: int) -> None:
    """Raise ValueError unless a tensor has so many dimensions and finite numbers of at least 16 bits."""
    if tensor.dtype not in _FLOATS:
        raise ValueError(f"'{name}' holds {tensor.dtype}")
    if tensor.ndim != dimensions:
        raise ValueError(f"'{name}' has {tensor.ndim} dimensions in place of {dimensions}")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"'{name}' holds values that are not finite")


def parse_dataclass(kind: type[T], entry: Any) -> T:
    """A dataclass of plain values from an object in a JSON file.

    Raises:
        ValueError: a field is missing, unknown or of another type.
    """
    hints = get_type_hints(kind)
    if not isinstance(entry, dict) or set(entry) != set(hints):
        raise ValueError(f"{str(entry)[:60]!r} in place of {', '.join(hints)}")
    for field, hint in hints.items():
        kinds = (get_origin(hint),) if get_origin(hint) in (tuple, dict, list) else get_args(hint) or (hint,)
        if not _is(entry[field], kinds):
            raise ValueError(f"{entry[field]!r:.60} as {field}")
    return kind(**entry)


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool) or value is None:
        return type(value) in kinds or (value is None and NoneType in kinds)
    if isinstance(value, int) and float in kinds:
        return math.isfinite(value)  # raises OverflowError beyond all numbers
    return isinstance(value, kinds)
