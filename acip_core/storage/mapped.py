"""Tensors that lie in files and are read, a page at a time, when they are used; the pages can be given back.

A page that was read stays resident until the system wants its memory. Whoever knows that a while has passed gives all
of them back at once: what is still in use comes again from the system's copy of the file.
"""

from __future__ import annotations

import json
import math
import mmap
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import torch

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
_ALIGNED = 64  # bytes; a product with a matrix that begins elsewhere takes 7 % longer
_DROPPED = getattr(mmap, "MADV_DONTNEED", None)  # not everywhere

_guard = threading.Lock()  # files are mapped while others give pages back
_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
_resident = 0  # `_file_pages` after they were given back


def mapped_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, which nobody may write to: a change would be lost when pages are given back.

    Args:
        path: of a file that was found whole; it may be removed, not changed.

    Raises:
        One of `verified.DAMAGE`: it is not there, or no such file.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        mapping = _mapped(stream)
    header.pop("__metadata__", None)
    return {
        name: _tensor(mapping, 8 + length + entry["data_offsets"][0], _TYPES[entry["dtype"]], entry["shape"])
        for name, entry in header.items()
    }


def moved_to_file(tensors: Mapping[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """The same tensors in a file without a name, which goes when they do or the process ends; as `mapped_tensors`.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = {}
    with tempfile.TemporaryFile(dir=folder) as stream:
        for name, tensor in tensors.items():
            starts[name] = -(-stream.tell() // _ALIGNED) * _ALIGNED
            stream.seek(starts[name])
            stream.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        stream.flush()
        mapping = _mapped(stream)
    return {name: _tensor(mapping, starts[name], t.dtype, t.shape) for name, t in tensors.items()}


def _mapped(stream: IO[bytes]) -> mmap.mmap:
    mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    with _guard:
        _mappings.add(mapping)
    return mapping


def _tensor(mapping: mmap.mmap, start: int, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    count = math.prod(shape)
    if count == 0:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(mapping, dtype=dtype, count=count, offset=start).view(tuple(shape))


def give_pages_back(share: float = 0.0) -> None:
    """Make no page of any mapped file resident.

    Args:
        share: do nothing until that share of all mapped bytes has become resident since the last time.
    """
    global _resident
    with _guard:
        mappings = list(_mappings)
    if _DROPPED is None or (share and _file_pages() - _resident <= share * sum(map(len, mappings))):
        return
    for mapping in mappings:
        mapping.madvise(_DROPPED)
    _resident = _file_pages()


def _file_pages() -> int:
    """Resident bytes of this process that lie in files, libraries among them; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0
