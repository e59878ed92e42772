"""Codes of a whole model at all levels: made once per machine, then read from its cache by digest.

One file for each few layers, so that a run that is killed goes on where it was; the tables of the entropy coder and the
length of every code, which need all of them, come last. Where a repository on the Hub has them they are fetched instead
(`packed_codes`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ModelError, StorageError
from ..paths import cache_dir
from ..progress import Progress, Steps
from ..storage.atomic import atomic_path, remove_leftovers
from ..storage.digests import cache_key
from ..storage.hub import Repository
from ..storage.locks import turn
from ..storage.verified import DAMAGE, read_tensors, save_tensors
from .coded_modeling import EIGHTHS
from .codes import Codes, quantize, quantize_table
from .coding_moments import CodingMoments, TableMoment
from .entropy_coding import Coded, Tables, encode, histogram
from .packed_codes import fetch
from .second_moments import Root, SecondMoment
from .thread_pools import one_thread

log = logging.getLogger("acip")
Tensors = dict[str, torch.Tensor]
Wanted = dict[str, tuple[torch.dtype, tuple[int, ...]]]  # types and shapes by name

_FORMAT = "codes-2:"
LEVELS = 10
_FINEST = 0.0165  # nats that all weights of a model lose at the finest level; twice as much at each further one
_PART = 4_000_000  # weights in a file, about
_LENGTHS = "lengths.safetensors"
_TABLE_ROWS = 4096  # rows of a table that are rounded together


@dataclass(frozen=True)
class CodedMatrix:
    """A matrix at all levels, the finest first.

    Attributes:
        codes: at each level.
        bytes: of each in a file: entropy-coded integers, scales and classes.
        losses: predicted rise of the loss at each, nats per token.
    """

    codes: tuple[Codes, ...]
    bytes: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class CodedModel:
    """The codes of every target layer and table by name, and what they are entropy-coded with."""

    matrices: dict[str, CodedMatrix]
    tables: Tables


def levels(weights: int) -> tuple[int, ...]:
    """Exponents of the steps at all levels, in eighths, for a model with so many weights.

    A step s loses s² / 12 for each weight, so that all together lose 0.0165 · 2^level nats, unless they feed back.
    """
    finest = EIGHTHS / 2 * math.log2(12 * _FINEST / weights)
    return tuple(round(finest + EIGHTHS / 2 * level) for level in range(LEVELS))


def stored_bytes(m: int, n: int, stream: int) -> int:
    """Bytes of a code in a file.

    Args:
        stream: of its entropy-coded integers. Rows and columns have an exponent of one byte above a least one, which
            all share in four, and a class of half a byte.
    """
    return stream + m + n + (m + 1) // 2 + (n + 1) // 2 + 4


def codes_place(moments: CodingMoments, fingerprint: str) -> Path:
    """The folder of a model's codes in this machine's cache."""
    return cache_dir() / "codes" / _key(fingerprint, moments)


def code_files(matrices: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the files in that folder, the last one written last."""
    return [*map(_part_name, range(len(list(_parts(matrices))))), _LENGTHS]


def cached_codes(
    matrices: Mapping[str, torch.Tensor],
    moments: CodingMoments,
    fingerprint: str,
    published: Repository | None = None,
) -> Steps[CodedModel]:
    """Codes from this machine's cache, memory-mapped; fetched, or made and written there, when absent or damaged.

    Of several processes that need the same, one makes them, and the others wait; when it is killed, another goes on.

    Args:
        matrices: every target layer's weight by name, then the tables'.
        fingerprint: of the weights.
        published: repository that may have them.

    Raises:
        ModelError: a moment is too damaged to be used.
    """
    place = codes_place(moments, fingerprint)
    if (place / _LENGTHS).exists():  # the last that is written
        return (yield from _codes(place, matrices, moments))

    def waiting() -> Progress:
        made, parts = len(list(place.glob("part-*"))), len(list(_parts(matrices)))
        return Progress("waiting for another process that makes the codes", made, parts)

    with (yield from turn(place, waiting)):
        if published is not None and not (place / _LENGTHS).exists():
            yield from fetch(place, code_files(matrices), published)
        return (yield from _codes(place, matrices, moments))


def _codes(place: Path, matrices: Mapping[str, torch.Tensor], moments: CodingMoments) -> Steps[CodedModel]:
    steps = levels(sum(matrix.numel() for matrix in matrices.values()))
    parts = list(_parts(matrices))
    found: dict[str, torch.Tensor] = {}
    complete = True
    for index, names in enumerate(parts):
        path = place / _part_name(index)
        tensors = _read(path, _contents({name: matrices[name] for name in names}, len(steps)))
        if tensors is None:
            complete = False
            made: dict[str, torch.Tensor] = {}
            before = sum(len(part) for part in parts[:index])
            for done, encoded in enumerate(_side_by_side(names, matrices, moments, steps), before + 1):
                made |= encoded
                yield Progress("making codes", done, len(matrices), "once on this machine")
            tensors = _write(path, made)
        found |= tensors
    return (yield from _measured(place, matrices, found, len(steps), complete))


def _part_name(index: int) -> str:
    return f"part-{index:03}.safetensors"


def _contents(matrices: Mapping[str, torch.Tensor], count: int) -> Wanted:
    """Of a file for some matrices."""
    found: Wanted = {}
    for name, matrix in matrices.items():
        m, n = matrix.shape
        found[f"{name}.columns"] = torch.int16, (n,)
        for level in range(count):
            parts = {"z": (torch.int8, (m, n)), "rows": (torch.int16, (m,)), "loss": (torch.float32, ())}
            found |= {f"{name}.{level}.{key}": part for key, part in parts.items()}
    return found


def _key(fingerprint: str, moments: CodingMoments) -> str:
    def of(moment: SecondMoment) -> tuple[object, ...]:
        return (moment.scale, moment.factor, moment.columns)

    tables = ((*of(table.rows), table.weights) for table in moments.tables.values())
    layers = (part for name in moments.inputs for m in (moments.inputs, moments.gradients) for part in of(m[name]))
    return cache_key(f"{_FORMAT}{fingerprint}", layers, (part for table in tables for part in table), length=24)


def _parts(matrices: Mapping[str, torch.Tensor]) -> Iterator[list[str]]:
    part: list[str] = []
    for name in matrices:
        if part and sum(matrices[n].numel() for n in part) + matrices[name].numel() > _PART:
            yield part
            part = []
        part.append(name)
    yield part


def _side_by_side(
    names: Sequence[str], matrices: Mapping[str, torch.Tensor], moments: CodingMoments, steps: Sequence[int]
) -> Iterator[Tensors]:
    """Codes of each matrix of a part; on the CPU one for each core, as half of the work is too small to be shared."""
    on_cpu = all(matrices[name].device.type == "cpu" for name in names)
    if len(names) == 1 or not on_cpu:
        yield from (_encoded_matrix(name, matrices[name], moments, steps) for name in names)
        return

    def alone(name: str) -> Tensors:
        with one_thread():
            return _encoded_matrix(name, matrices[name], moments, steps)

    longest_first = sorted(names, key=lambda name: -matrices[name].numel())  # so that no core waits at the end
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(alone, longest_first)


def _encoded_matrix(
    name: str, weight: torch.Tensor, moments: CodingMoments, steps: Sequence[int]
) -> dict[str, torch.Tensor]:
    try:
        if name in moments.tables:
            found = _table(weight, moments.tables[name], steps)
        else:
            inputs, gradients = (m[name].root().to(weight.device) for m in (moments.inputs, moments.gradients))
            codes = quantize(weight, inputs.matrix(), gradients.matrix(), steps)
            found = [(code, _loss(weight, code, inputs, gradients)) for code in codes]
    except torch.linalg.LinAlgError:
        raise ModelError(f"Cannot make codes of {name}: its second moments are damaged; precompute again.") from None
    tensors = {f"{name}.columns": found[0][0].columns.cpu()}  # the same at all levels
    for level, (code, loss) in enumerate(found):
        parts = {"z": code.z, "rows": code.rows, "loss": torch.tensor(loss)}
        tensors |= {f"{name}.{level}.{key}": part.cpu() for key, part in parts.items()}
    return tensors


@torch.no_grad()
def _loss(weight: torch.Tensor, code: Codes, inputs: Root, gradients: Root) -> float:
    """tr(G D C Dᵀ) as ‖Kᵀ D L‖², whose roots K and L have few columns beside their diagonals."""
    images = inputs.images(weight.float() - code.matrix())
    return float(gradients.images(images.T).square().sum())


@torch.no_grad()
def _table(weight: torch.Tensor, moment: TableMoment, steps: Sequence[int]) -> list[tuple[Codes, float]]:
    rows, weights = moment.rows.root().to(weight.device), moment.weights.to(weight.device)
    of_rows, found = rows.matrix(), []
    for step in steps:
        code = quantize_table(weight, of_rows, weights, step, _TABLE_ROWS)
        loss = 0.0
        for part, z, exponents, w in zip(
            weight.split(_TABLE_ROWS), code.z.split(_TABLE_ROWS), code.rows.split(_TABLE_ROWS),
            weights.split(_TABLE_ROWS), strict=True,
        ):  # fmt: skip
            off = part.float() - Codes(z, exponents, code.columns).matrix()
            loss += float((rows.images(off).square().sum(1) * w).sum())
        found.append((code, loss))
    return found


def _write(path: Path, tensors: Tensors) -> Tensors:
    """Written and read back, so that they lie in the file; as they are where it cannot be written."""
    try:
        remove_leftovers(path.parent)
        with atomic_path(path) as temporary:
            save_tensors(tensors, temporary)
        return read_tensors(path, mapped=True)[0]
    except (StorageError, *DAMAGE) as error:
        log.warning("%s Until then, every start will make the codes again.", error)
        return tensors


def _read(path: Path, wanted: Wanted, check: Callable[[Tensors], object] = bool) -> Tensors | None:
    """The tensors of a file; None where it is missing, or is not what it should be.

    Args:
        check: raises one of `DAMAGE` at what else is wrong.
    """
    if not path.exists():
        return None
    try:
        tensors, _ = read_tensors(path, mapped=True)
        for name, (dtype, shape) in wanted.items():
            if name not in tensors or tensors[name].dtype != dtype or tensors[name].shape != shape:
                raise ValueError(f"{name} is missing or does not fit its matrix")
            if dtype.is_floating_point and not tensors[name].isfinite().all():
                raise ValueError(f"{name} is not finite")
        check(tensors)
        return tensors
    except DAMAGE as error:
        log.warning("The cached codes %s are damaged (%s); making them again.", path, error)
        return None


def _measured(
    place: Path, matrices: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], count: int, complete: bool
) -> Steps[CodedModel]:
    """The entropy coder's tables for all codes together, and the length of each code with them.

    Args:
        complete: whether all codes were there; otherwise lengths that are there may be those of others.
    """
    codes = {
        name: tuple(
            Codes(found[f"{name}.{level}.z"], found[f"{name}.{level}.rows"], found[f"{name}.columns"])
            for level in range(count)
        )
        for name in matrices
    }
    path = place / _LENGTHS
    wanted: Wanted = dict.fromkeys(matrices, (torch.int64, (count,)))
    lengths = _read(path, wanted, lambda of: Tables.read(of["frequencies"])) if complete else None
    if lengths is None:
        counts = torch.zeros(())
        for index, of_matrix in enumerate(codes.values()):
            counts = counts + sum(histogram(code.z, *code.classes()) for code in of_matrix)
            yield Progress("counting codes", index + 1, len(codes))
        tables, streams = Tables.of(counts.long()), torch.zeros(len(codes), count, dtype=torch.int64)
        together = max(1, _PART // sum(of[0].z.numel() for of in codes.values()))  # levels of a small model
        for level in range(0, count, together):
            coded = [Coded(code.z, *code.classes()) for of in codes.values() for code in of[level : level + together]]
            sizes = torch.tensor([len(stream) for stream in encode(coded, tables)])
            streams[:, level : level + together] = sizes.view(len(codes), -1)
            yield Progress("measuring codes", min(level + together, count), count)
        lengths = {"frequencies": tables.tensor()} | dict(zip(codes, streams.unbind(), strict=True))
        lengths = _write(path, lengths)
    result = {}
    for name, of_matrix in codes.items():
        m, n = of_matrix[0].z.shape
        stored = tuple(stored_bytes(m, n, length) for length in lengths[name].tolist())
        losses = tuple(float(found[f"{name}.{level}.loss"]) for level in range(count))
        result[name] = CodedMatrix(of_matrix, stored, losses)
    return CodedModel(result, Tables.read(lengths["frequencies"]))
