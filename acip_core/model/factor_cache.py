"""Factors in this machine's cache: read when they are whole, computed and written when they are not.

Only the output-side directions are kept; `Uᵀ W` is one product. One file holds a model that is in memory. Where weights
stay in their files, each decoder block has a file, written before the next one is factorized and read, memory-mapped,
a layer at a time.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain, groupby
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import StorageError
from ..paths import cache_dir
from ..progress import Progress, Steps
from ..storage.atomic import atomic_path, remove_leftovers
from ..storage.digests import cache_key, check_regular
from ..storage.heap import give_heap_back
from ..storage.locks import turn
from ..storage.mapped import mapped_tensors
from ..storage.verified import DAMAGE
from .factorization import Factors, factorize
from .offloading import StoredWeights
from .second_moments import Basis

log = logging.getLogger("acip")
_FORMAT = 2
_BLOCK = re.compile(r".*?\.\d+(?=\.)")  # a layer's name up to the number of its block


def cached_factors(
    weights: Mapping[str, torch.Tensor], model_fingerprint: str, basis: Basis, gradients: Basis | None = None
) -> Steps[Mapping[str, Factors]]:
    """Factors from this machine's cache, memory-mapped; computed and written there when absent or damaged.

    Raises:
        ModelError: as `factorize`.
        StorageError: they cannot be written, and the weights stay in their files.
    """
    key = _cache_key(model_fingerprint, basis, gradients)
    if isinstance(weights, StoredWeights):
        return (yield from _by_block(cache_dir() / "factors" / key, weights, basis, gradients))
    path = cache_dir() / "factors" / f"{key}.safetensors"
    remove_leftovers(path.parent)
    if (found := _read_cache(path, weights)) is not None:
        return found
    with (yield from turn(path, lambda: Progress("waiting for another process that factorizes", 0, 1))) as waited:
        if waited and (found := _read_cache(path, weights)) is not None:
            return found
        factors = yield from factorize(weights, basis, gradients)
        try:
            _write_cache(path, factors)
        except StorageError as error:
            log.warning("%s Until then, every start will compute the factors again.", error)
        return factors


def _by_block(
    folder: Path, weights: StoredWeights, basis: Basis, gradients: Basis | None
) -> Steps[Mapping[str, Factors]]:
    files: dict[str, Path] = {}
    for block, names in groupby(weights, lambda name: found[0] if (found := _BLOCK.match(name)) else name):
        path, of_block = folder / f"{block}.safetensors", list(names)
        files |= dict.fromkeys(of_block, path)
        part = StoredWeights({name: weights.layers[name] for name in of_block})
        with (yield from turn(path, lambda: Progress("waiting for another process that factorizes", 0, 1))):
            if _read_cache(path, part) is None:
                remove_leftovers(folder)
                _write_cache(path, (yield from factorize(part, {name: basis[name] for name in of_block}, gradients)))
        give_heap_back()
        yield Progress("factorizing", len(files), len(weights))
    return _FactorFiles(files, weights)


class _FactorFiles(Mapping[str, Factors]):
    """Factors by layer, memory-mapped from files that were found whole."""

    def __init__(self, files: Mapping[str, Path], weights: StoredWeights):
        self._files, self._weights = files, weights

    def __getitem__(self, name: str) -> Factors:
        return _checked(self._files[name], {name: self._weights[name]}, sums_too=False)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _cache_key(model_fingerprint: str, basis: Basis, gradients: Basis | None) -> str:
    both = (*basis.values(), *(gradients or {}).values())
    moments = {id(m): m for m in both}.values()  # one for layers with a common input
    parts = ((f"{m.layers}{m.side}", m.scale, m.factor, m.columns) for m in moments)
    return cache_key(f"{_FORMAT}{model_fingerprint}", chain.from_iterable(parts), length=24)


def _write_cache(path: Path, factors: dict[str, Factors]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for name, of_layer in factors.items():
        tensors |= {f"{name}.{part}": t.cpu().contiguous() for part, t in vars(of_layer).items() if t is not None}
    sums = {key: _checksum(tensor) for key, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"checksums": json.dumps(sums)})


def _read_cache(path: Path, weights: Mapping[str, torch.Tensor]) -> dict[str, Factors] | None:
    if not os.path.lexists(path):
        return None
    try:
        return _checked(path, weights)
    except DAMAGE as error:
        log.warning("The factor cache %s is damaged (%s); computing it again.", path, error)
        return None


def _checked(path: Path, weights: Mapping[str, torch.Tensor], sums_too: bool = True) -> dict[str, Factors]:
    factors = {}
    check_regular(path)
    with safe_open(path, "pt") as file:
        sums = json.loads(file.metadata()["checksums"])
    held = mapped_tensors(path)
    for name, weight in weights.items():
        keys = [f"{name}.{part}" for part in ("directions", "singular_values", "turned")]
        parts = [held[key] for key in keys if key in sums]
        for part, key in zip(parts, keys, strict=False):
            if sums_too and _checksum(part) != sums[key]:
                raise ValueError(f"checksum of {key} differs")
        if any(part.shape != (min(weight.shape), weight.shape[0]) for part in (parts[0], *parts[2:])):
            raise ValueError(f"{name} has shape {tuple(parts[0].shape)}")
        factors[name] = Factors(*(part.to(weight.device) for part in parts))
    return factors


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.contiguous().numpy().data)
