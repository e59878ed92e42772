"""Codes of weights as few bytes: each entry takes −log₂ of its frequency in its class, whatever its place.

Classes stand for the magnitude of a row and of a column; entry (i, j) of a matrix is of class rows[i] + columns[j].
`entropy_decoding` describes the coder and reads what it writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .entropy_decoding import (
    CLASSES,
    LOWEST,
    PRECISION,
    SYMBOLS,
    blocks,
    cells,
    check_of,
    classes_of,
    first_lanes,
    groups,
    lanes_of,
    read_frequencies,
)


@dataclass(frozen=True)
class Coded:
    """Codes of a matrix, int8 (m, n), and the classes of its rows and columns, uint8 (m,) and (n,), each 0 to 15."""

    z: Tensor
    rows: Tensor
    columns: Tensor

    def __post_init__(self) -> None:
        if self.z.dtype != torch.int8 or self.z.shape != (len(self.rows), len(self.columns)):
            raise ValueError("Codes must be int8, with a class for each row and each column.")


@dataclass(frozen=True, eq=False)
class Tables:
    """How often each symbol (code + 128) of each class is: int32 (classes, symbols), on the CPU.

    A class sums to 2 ** PRECISION, or to zero where nothing is of this class.
    """

    frequencies: Tensor

    @classmethod
    def of(cls, counts: Tensor) -> Tables:
        """Frequencies in proportion to counts, int64 (classes, symbols), and at least one where a count is not zero.

        Sums are made exact one by one, each time where the total length grows least: adding to f of c symbols saves
        about c / (f + ½), taking away costs c / (f − ½). Integers only, so the same everywhere.
        """
        counts = counts.cpu()
        total = counts.sum(dim=1, keepdim=True)
        size = torch.where(total > 0, 1 << PRECISION, 0)
        f = (counts * size // total.clamp(min=1)).maximum((counts > 0).long())
        while (missing := size - f.sum(dim=1, keepdim=True)).any():
            gain = ((counts << 20) // (2 * f + 1)).argmax(dim=1, keepdim=True)
            cost = (counts << 20) // (2 * f - 1).clamp(min=1)
            loss = cost.masked_fill(f <= 1, torch.iinfo(torch.int64).max).argmin(dim=1, keepdim=True)
            f.scatter_add_(1, torch.where(missing > 0, gain, loss), missing.sign())
        return cls(f.int())

    @classmethod
    def read(cls, stored: Tensor) -> Tables:
        """What `tensor` stored. Raises ValueError where it is damaged."""
        return cls(read_frequencies(stored))

    def tensor(self) -> Tensor:
        """The tables as uint8, one dimension; the layout stands at `read_frequencies`."""
        ranges, values = [], []
        for row in self.frequencies:
            where = row.nonzero().flatten()
            first, last = (int(where[0]), int(where[-1])) if len(where) else (1, 0)
            ranges += [first, last]
            values.append(row[first : last + 1])
        return torch.cat([torch.tensor(ranges, dtype=torch.uint8), _bytes(torch.cat(values))])

    def bits(self, counts: Tensor) -> float:
        """The ideal length of symbols with these counts, int64 (classes, symbols): Σ −log₂ f / M.

        Infinite where a symbol that occurs has frequency 0; `encode` takes about 0.0025 bits for each symbol more.
        """
        p = self.frequencies.double() / (1 << PRECISION)
        return -torch.special.xlogy(counts.cpu().double(), p).sum().item() / math.log(2)


def histogram(z: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """How often each symbol (code + 128) of each class is in a matrix: int64 (classes, symbols)."""
    counts = torch.zeros(CLASSES * SYMBOLS, dtype=torch.int64, device=z.device)
    for codes, part in zip(z.split(1024), rows.split(1024), strict=True):
        counts += _pairs(part[:, None] + columns, codes).flatten().bincount(minlength=len(counts))
    return counts.view(CLASSES, SYMBOLS)


def encode(matrices: Sequence[Coded], tables: Tables) -> list[Tensor]:
    """The bytes of each matrix, uint8, on its device; they do not depend on the other matrices.

    For each lane the lower half of its last state, then the upper halves, then the numbers of words, then the words:
    all of 16 bits, the low byte first.

    Raises:
        ValueError: a code whose frequency in its class is zero.
    """
    streams = [Tensor()] * len(matrices)
    for group in groups([matrix.z.numel() for matrix in matrices]):
        for i, stream in zip(group, _encoded([matrices[i] for i in group], tables), strict=True):
            streams[i] = stream
    return streams


def _pairs(classes: Tensor, z: Tensor) -> Tensor:
    """The place of each entry in flat tables (classes, symbols), int32."""
    return classes.int().bitwise_left_shift_(8).add_(z).add_(SYMBOLS // 2)


def _encoded(matrices: list[Coded], tables: Tables) -> list[Tensor]:
    """The bytes of the matrices of a group, in its order; lanes are coded from their last symbols to their first.

    On the CPU, wherever the codes are: there are thousands of steps, and numpy begins each of them the soonest.
    """
    device = matrices[0].z.device
    matrices = [Coded(x.z.cpu(), x.rows.cpu(), x.columns.cpu()) for x in matrices]
    f, below = _flat(tables.frequencies)
    classes = [classes_of(x.rows, x.columns, tables.frequencies).flatten() for x in matrices]
    codes = [x.z.flatten() for x in matrices]
    sizes = [len(z) for z in codes]
    firsts = first_lanes(sizes)
    state = LOWEST + torch.cat([check_of(z) for z in codes])
    pieces = []
    for start, steps, active in reversed(list(blocks(sizes))):
        width = firsts[active]
        pair = torch.full((steps, width), CLASSES * SYMBOLS, dtype=torch.int32, device="cpu")
        for first, k, z in zip(firsts[:active], classes, codes, strict=False):
            for (cell, part), (_, code) in zip(cells(pair, first, k, start), cells(pair, first, z, start), strict=True):
                cell.copy_(_pairs(part, code))
        chosen, under = (table.index_select(0, pair.flatten()).view(steps, width) for table in (f, below))
        if not chosen.all():
            row, symbol = divmod(int(pair[chosen == 0][0]), SYMBOLS)
            raise ValueError(f"The tables have no frequency for code {symbol - SYMBOLS // 2} in class {row}.")
        pieces.append(_coded(state[:width].numpy(), chosen.numpy(), under.numpy()))
    words, lengths = _joined(pieces[::-1], torch.zeros_like(state, dtype=torch.int64))
    lanes = [lanes_of(size) for size in sizes]
    streams, start = [], 0
    for x, length in zip(state.split(lanes), lengths.split(lanes), strict=True):
        stop = start + int(length.sum())
        stream = torch.cat([_bytes(part) for part in (x & 0xFFFF, x >> 16, length, words[start:stop])])
        streams.append(stream.to(device))
        start = stop
    return streams


def _flat(frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """f and F of each pair of a class and a symbol, int32; one class more leaves states as they are."""
    f = torch.cat([frequencies, torch.full_like(frequencies[:1], 1 << PRECISION)])
    below = (frequencies.cumsum(1) - frequencies).int()
    return f.flatten(), torch.cat([below, torch.zeros_like(below[:1])]).flatten()


def _coded(x: NDArray[np.int32], f: NDArray[np.int32], below: NDArray[np.int32]) -> tuple[Tensor, Tensor]:
    """Words of a block, int16, lane after lane, and how many each lane has; `x` moves on.

    f, below: (steps, lanes). x ← ⌊x / f⌋ M + x mod f + F, which is x + ⌊x / f⌋ (M − f) + F.
    """
    words, written = np.empty(f.shape, np.int16), np.empty(f.shape, bool)
    rest = (1 << PRECISION) - f
    quotient, bits = np.empty_like(x), np.empty_like(x)
    most, four = np.int32(31 - PRECISION), np.int32(4)
    for row in zip(f[::-1], below[::-1], rest[::-1], words[::-1], written[::-1], strict=True):
        frequency, under, factor, word, full = row
        np.right_shift(x, most, quotient)
        np.greater_equal(quotient, frequency, full)  # the state would grow beyond 31 bits
        word[:] = x  # its lower half
        bits[:] = full
        np.left_shift(bits, four, bits)
        np.right_shift(x, bits, x)
        np.floor_divide(x, frequency, quotient)
        np.multiply(quotient, factor, quotient)
        np.add(x, quotient, x)
        np.add(x, under, x)
    lengths = torch.from_numpy(written).sum(dim=0, dtype=torch.int32)
    return torch.from_numpy(np.ascontiguousarray(words.T)[np.ascontiguousarray(written.T)]), lengths


def _joined(pieces: list[tuple[Tensor, Tensor]], lengths: Tensor) -> tuple[Tensor, Tensor]:
    """All words, lane after lane, and the number of each lane's, from those of the blocks; `lengths` holds zeros."""
    for _, counts in pieces:
        lengths[: len(counts)] += counts
    words = torch.empty(int(lengths.sum()), dtype=torch.int16, device=lengths.device)
    begin = lengths.cumsum(0) - lengths
    for piece, counts in pieces:
        shift = begin[: len(counts)] - (counts.cumsum(0) - counts)
        words[torch.arange(len(piece), device=words.device) + shift.repeat_interleave(counts)] = piece
        begin[: len(counts)] += counts
    return words, lengths


def _bytes(values: Tensor) -> Tensor:
    """16-bit numbers as uint8, the low byte first."""
    return torch.stack([values & 0xFF, values >> 8], dim=1).to(torch.uint8).flatten()
