"""SHA-256 digests and the cache keys that are made of them; no other module of the package hashes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import torch


def digest(*parts: object) -> str:
    """SHA-256 over parts in their order, in hexadecimal digits.

    Args:
        parts: bytes and text as they are, tensors as their values in memory, iterators as what they yield one after
            the other; anything else as JSON, and as text what JSON has no form for.
    """
    sha = hashlib.sha256()
    for data in _data(iter(parts)):
        sha.update(data)
    return sha.hexdigest()


def cache_key(*parts: object, length: int = 12) -> str:
    """The first digits of a digest: short enough for a file's name, long enough that no two in a cache are alike."""
    return digest(*parts)[:length]


def _data(parts: Iterator[object]) -> Iterator[bytes | memoryview]:
    for part in parts:
        if isinstance(part, Iterator):
            yield from _data(part)
        elif isinstance(part, torch.Tensor):
            yield part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        elif isinstance(part, bytes):
            yield part
        else:
            yield (part if isinstance(part, str) else json.dumps(part, default=str)).encode("utf-8", "surrogatepass")


def check_regular(path: Path) -> int:
    """The length of a file in bytes; opening a pipe would wait for ever.

    Raises:
        FileNotFoundError, ValueError: it is not there, or something else than a file is.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")
    return found.st_size


def file_digest(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal digits."""
    check_regular(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
