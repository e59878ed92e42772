"""Codes of a model on the Hub: this machine's files of them, packed, and fetched where making them would take minutes.

codes/<key>.json                       bytes and SHA-256 of each file before it was packed; sealed
codes/<key>/part-000.safetensors.z     … and `lengths.safetensors.z`, as `code_cache` keeps them

The key is that of the cache, so a repository may hold those of several models. Packing is deflate by Huffman codes
alone: the default model's 1.35 GB become 0.50, unpacked in 6 s of a core. The exports' coder would make them 0.45, and
take 20 s.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import HubError, StorageError
from ..progress import Progress, Steps
from ..storage.atomic import atomic_path
from ..storage.digests import check_regular, file_digest
from ..storage.hub import HubConfig, Repository, is_on_hub
from ..storage.verified import DAMAGE, parse_dataclass, read_json, write_json

log = logging.getLogger("acip")

_FOLDER = "codes"  # in a repository
_BLOCK = 1 << 16  # bytes that are unpacked at once: at most a thousand times as many
_FAULTS = (zlib.error, HubError, StorageError, *DAMAGE)


@dataclass(frozen=True)
class _Stated:
    """What a file has before it is packed."""

    bytes: int
    sha256: str


def repository_of(artifact: str | Path | None, hub: HubConfig) -> Repository | None:
    """Where codes may be published: `ACIP_CODES_REPO`, else where the artifact comes from; None for a folder."""
    name = os.environ.get("ACIP_CODES_REPO", "").strip() or (str(artifact) if artifact and is_on_hub(artifact) else "")
    return Repository(name, hub) if name else None


def pack(place: Path, names: Sequence[str], folder: Path) -> Steps[None]:
    """Write the files `names` of a folder of codes, packed, and what they are, as a repository has them.

    Raises:
        StorageError: one is missing, or cannot be written.
    """
    target = folder / _FOLDER / place.name
    target.mkdir(parents=True)
    stated = {}
    for index, name in enumerate(names):
        yield Progress("packing codes", index, len(names))
        if not (place / name).exists():
            raise StorageError(f"{place} lacks {name}, so the codes cannot be published; see why in the log above.")
        stated[name] = {"bytes": check_regular(place / name), "sha256": file_digest(place / name)}
        packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_HUFFMAN_ONLY)
        with (place / name).open("rb") as source, (target / f"{name}.z").open("wb") as packed:
            for block in iter(lambda source=source: source.read(_BLOCK), b""):  # type: ignore[misc]
                packed.write(packer.compress(block))
            packed.write(packer.flush())
    write_json(target.with_suffix(".json"), {"files": stated})


def fetch(place: Path, names: Sequence[str], repository: Repository) -> Steps[None]:
    """Fill a folder of codes with those that a repository has for it, file by file; killed, it goes on where it was.

    Nothing is raised: where the repository has none, or not these files, or cannot be reached, what is missing is left
    to be made. The log says what went wrong, but for a repository without them.

    Args:
        names: of the files, in the order in which they are to come.
    """
    try:
        if (listed := repository.file(f"{_FOLDER}/{place.name}.json")) is None:
            return
        entries = read_json(listed, sealed=True)["files"]
        if set(entries) != set(names):
            raise ValueError("it lists other files than this model's")
        files = {name: parse_dataclass(_Stated, entries[name]) for name in names}
        size = f"{sum(file.bytes for file in files.values()) / 1e6:.0f} MB unpacked, from {repository.name}"
        for index, (name, stated) in enumerate(files.items()):
            yield Progress("fetching codes", index, len(files), size)
            if not _has(place / name, stated):
                if (packed := repository.file(f"{_FOLDER}/{place.name}/{name}.z")) is None:
                    raise ValueError(f"it lacks {name}")
                _unpack(packed, place / name, stated)
    except _FAULTS as error:
        log.warning("Codes of %s cannot be fetched (%s); they are made here.", repository.name, error)


def _has(path: Path, stated: _Stated) -> bool:
    return path.exists() and check_regular(path) == stated.bytes and file_digest(path) == stated.sha256


def _unpack(packed: Path, path: Path, stated: _Stated) -> None:
    """Raises one of `_FAULTS` where it is not what was stated; then no file is written."""
    unpacker, length = zlib.decompressobj(), 0
    with atomic_path(path) as temporary:
        with packed.open("rb") as source, temporary.open("wb") as target:
            for block in iter(lambda: source.read(_BLOCK), b""):
                data = unpacker.decompress(block)
                length += len(data)
                if length > stated.bytes:
                    break
                target.write(data)
        if length != stated.bytes or file_digest(temporary) != stated.sha256:
            raise ValueError(f"{path.name} is another file than was published")
