"""Codes of weights out of the bytes that `entropy_coding` made of them; needs nothing but torch.

The coder is range ANS (Duda, arXiv:1311.2540), interleaved (Giesen, arXiv:1402.3392): a state x stands for all symbols
still to come. A symbol s of frequency f(s), at F(s) = Σ_{t<s} f(t) among M slots, is taken off by

    s: F(s) ≤ x mod M < F(s) + f(s)        x ← f(s) ⌊x / M⌋ + x mod M − F(s)        x ← 2¹⁶ x + word where x < 2¹⁵

Symbols of a matrix are dealt out to lanes in turn. Lanes do not depend on each other, so those of many matrices run as
one vector. States stay below 2³¹: the arithmetic is that of int32, exact and the same on every machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

CLASSES = 31  # sums of a row's and a column's class, each 0 to 15
SYMBOLS = 256
PRECISION = 14  # bits: the frequencies of a class sum to M = 2 ** PRECISION
LOWEST = 1 << 15  # states are at least this between two symbols
LANE = 16384  # symbols in a lane, about
BLOCK = 512  # steps for which classes and codes are held in the order of lanes; another number gives the same bytes
GROUP = 1 << 26  # symbols that run as one vector, at most unless a matrix has more; bounds the memory

_HEAD = 6  # bytes of a lane: its state, and the number of its 16-bit words


def read_frequencies(stored: Tensor) -> Tensor:
    """Frequencies (classes, symbols), int32, of what `Tables.tensor` stored: uint8, one dimension.

    First and last symbol of each class, then the frequencies between them, 16 bits each; a class without any has its
    last symbol before its first. Raises ValueError where this is not such a tensor.
    """
    stored = stored.cpu()
    frequencies = torch.zeros(CLASSES, SYMBOLS, dtype=torch.int32, device="cpu")
    if stored.dtype != torch.uint8 or stored.ndim != 1 or len(stored) < 2 * CLASSES or len(stored) % 2:
        raise ValueError("The table of symbol frequencies is damaged.")
    values, start = _words(stored[2 * CLASSES :]), 0
    for row, (first, last) in zip(frequencies, stored[: 2 * CLASSES].view(-1, 2).tolist(), strict=True):
        count = max(0, last + 1 - first)
        if start + count <= len(values):
            row[first : first + count] = values[start : start + count]
        start += count
    sums = frequencies.sum(dim=1)
    if start != len(values) or ((sums != 0) & (sums != 1 << PRECISION)).any():
        raise ValueError("The table of symbol frequencies is damaged.")
    return frequencies


def decode(
    streams: Sequence[Tensor], rows: Sequence[Tensor], columns: Sequence[Tensor], frequencies: Tensor
) -> list[Tensor]:
    """Matrices of codes, int8 (m, n), on the device of `frequencies`.

    Args:
        streams: what `encode` made of each matrix: uint8, one dimension.
        rows, columns: classes, uint8 (m,) and (n,), for each matrix; entry (i, j) is of class rows[i] + columns[j].
        frequencies: (classes, symbols), as `read_frequencies` gives them.

    Raises:
        ValueError: a stream is damaged, or its classes are others than those it was coded with. The message names the
            matrix by its place in `streams`.
    """
    device = frequencies.device
    rows, columns = [classes.to(device) for classes in rows], [classes.to(device) for classes in columns]
    tables = _slots(frequencies)
    codes = [Tensor()] * len(streams)
    for group in groups([len(r) * len(c) for r, c in zip(rows, columns, strict=True)]):
        for i in group:
            codes[i] = classes_of(rows[i], columns[i], frequencies).view(torch.int8)
        _decode_in_place([streams[i].to(device) for i in group], [codes[i].view(-1) for i in group], tables, group)
    return codes


def lanes_of(size: int) -> int:
    """The number of lanes of a matrix of so many symbols."""
    return max(1, (size + LANE // 2) // LANE)


def steps_of(size: int) -> int:
    """The number of symbols in the longest lane of a matrix of so many symbols."""
    return -(-size // lanes_of(size))


def groups(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Groups of matrices that run as one vector: their indices, those with the longest lanes first."""
    group: list[int] = []
    held = 0
    for i in sorted(range(len(sizes)), key=lambda i: -steps_of(sizes[i])):
        if group and held + sizes[i] > GROUP:
            yield group
            group, held = [], 0
        group.append(i)
        held += sizes[i]
    if group:
        yield group


def classes_of(rows: Tensor, columns: Tensor, frequencies: Tensor) -> Tensor:
    """The class of every entry, uint8 (m, n). Raises ValueError where one has no frequencies."""
    if rows.dtype != torch.uint8 or columns.dtype != torch.uint8 or rows.ndim != 1 or columns.ndim != 1:
        raise ValueError("The classes of rows and columns must be vectors of uint8.")
    present = (rows.unique()[:, None].int() + columns.unique().int()).unique().tolist()
    known = frequencies.any(dim=1).tolist()
    for k in present:
        if k >= CLASSES or not known[k]:
            raise ValueError(f"Entries are of class {k}, for which the table has no frequencies.")
    return rows[:, None] + columns


def first_lanes(sizes: Sequence[int]) -> list[int]:
    """The first lane of each matrix in the vector of a group, and the number of all."""
    return [0, *accumulate(lanes_of(size) for size in sizes)]


def blocks(sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """First step, number of steps, and how many matrices of a group are not over yet."""
    steps = [steps_of(size) for size in sizes]
    for start in range(0, steps[0], BLOCK):
        yield start, min(BLOCK, steps[0] - start), sum(count > start for count in steps)


def cells(block: Tensor, first: int, flat: Tensor, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the same symbols in a block (steps, lanes) that begins at step `start`, and in a matrix."""
    lanes = lanes_of(len(flat))
    part = flat[start * lanes : (start + len(block)) * lanes]
    whole = len(part) // lanes
    if whole:
        yield block[:whole, first : first + lanes], part[: whole * lanes].view(whole, lanes)
    if rest := len(part) - whole * lanes:
        yield block[whole, first : first + rest], part[whole * lanes :]


def check_of(flat: Tensor) -> Tensor:
    """Σ w(t) z(t) mod 2¹⁵ of each lane's codes z(t), int32, for one matrix; w is 1, 3, … 253, 1, 3, …

    No product goes beyond 16 bits, and the sum changes wherever a single code does.
    """
    lanes, steps = lanes_of(len(flat)), steps_of(len(flat))
    codes = torch.nn.functional.pad(flat, (0, steps * lanes - len(flat))).view(steps, lanes)
    weights = (torch.arange(steps, device=flat.device) % 127 * 2 + 1).short()[:, None]
    sums = torch.zeros(lanes, dtype=torch.int32, device=flat.device)
    for part, weight in zip(codes.split(BLOCK), weights.split(BLOCK), strict=True):
        sums += (part * weight).sum(dim=0, dtype=torch.int32)
    return sums & (LOWEST - 1)


def _decode_in_place(
    streams: list[Tensor], flats: list[Tensor], tables: tuple[Tensor, Tensor], names: list[int]
) -> None:
    """Codes in place of the classes in `flats`, which are a group's in its order."""
    sizes = [len(flat) for flat in flats]
    firsts = first_lanes(sizes)
    state, position, end, words = _opened(streams, sizes, names)
    for start, steps, active in blocks(sizes):
        width = firsts[active]
        slots = torch.full((steps, width), CLASSES, dtype=torch.int32, device=words.device)
        for first, flat in zip(firsts[:active], flats, strict=False):
            for cell, part in cells(slots, first, flat, start):
                cell.copy_(part)
        decoded = _decoded(state[:width], position[:width], slots.bitwise_left_shift_(PRECISION), words, tables)
        for first, flat in zip(firsts[:active], flats, strict=False):
            for cell, part in cells(decoded, first, flat, start):
                part.copy_(cell)
        _refuse(position > end, firsts, names)  # such a lane would soon read beyond the last word of all
    checks = torch.cat([check_of(flat) for flat in flats])
    _refuse((state != LOWEST + checks) | (position != end), firsts, names)


def _refuse(wrong: Tensor, firsts: list[int], names: list[int]) -> None:
    """Raise where a lane is wrong."""
    if wrong.any():
        name = names[bisect_right(firsts, int(wrong.nonzero()[0])) - 1]
        raise ValueError(f"The bytes of matrix {name} are damaged, or were made with other classes or frequencies.")


def _decoded(x: Tensor, position: Tensor, slots: Tensor, words: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Symbols (steps, lanes), int8, of lanes with the states `x`; these and `position` move on.

    slots: (steps, lanes), int32, where the class of each symbol begins in the tables. Nothing is allocated in a step.
    """
    entries, symbols = tables
    decoded = torch.empty_like(slots, dtype=torch.int8)
    slot, entry, low, word = (torch.empty_like(x) for _ in range(4))
    mask, shift, lowest = (
        torch.tensor(v, dtype=torch.int32, device="cpu") for v in ((1 << PRECISION) - 1, PRECISION, LOWEST)
    )
    for base, symbol in zip(slots.unbind(), decoded.unbind(), strict=True):
        torch.bitwise_and(x, mask, out=slot)
        slot.add_(base)
        torch.index_select(entries, 0, slot, out=entry)
        torch.index_select(symbols, 0, slot, out=symbol)
        x.bitwise_right_shift_(shift)
        torch.bitwise_right_shift(entry, shift, out=low)
        x.mul_(low)
        x.add_(entry.bitwise_and_(mask))
        torch.lt(x, lowest, out=low)  # as 0 or 1
        torch.index_select(words, 0, position, out=word)
        x.addcmul_(x, low, value=65535)
        x.addcmul_(word, low)
        position.add_(low)
    return decoded


def _opened(streams: list[Tensor], sizes: list[int], names: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The states, the begin and the end of the words of each lane, and all words: int32."""
    lanes = [lanes_of(size) for size in sizes]
    for stream, count, name in zip(streams, lanes, names, strict=True):
        if stream.dtype != torch.uint8 or stream.ndim != 1 or len(stream) < _HEAD * count or len(stream) % 2:
            raise ValueError(f"The bytes of matrix {name} are damaged: there are too few.")
    heads = [stream[: _HEAD * count].view(3, -1) for stream, count in zip(streams, lanes, strict=True)]
    low, high, length = (_words(torch.cat([head[i] for head in heads])) for i in range(3))
    bodies = [stream[_HEAD * count :] for stream, count in zip(streams, lanes, strict=True)]
    for states, lengths, body, name in zip(high.split(lanes), length.split(lanes), bodies, names, strict=True):
        if 2 * int(lengths.sum()) != len(body) or (states >= LOWEST).any():
            raise ValueError(f"The bytes of matrix {name} are damaged: their number or a state does not fit.")
    spare = torch.zeros(2 * BLOCK + 2, dtype=torch.uint8, device=low.device)  # a damaged lane may read beyond the end
    end = length.cumsum(0).int()
    return high << 16 | low, end - length, end, _words(torch.cat([*bodies, spare]))


def _words(stored: Tensor) -> Tensor:
    """16-bit numbers as int32, of bytes with the low one first."""
    pairs = stored.view(-1, 2)
    return pairs[:, 1].int().bitwise_left_shift_(8).bitwise_or_(pairs[:, 0])


def _slots(frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """For each slot of each class, f · M + slot − F as int32, and the code as int8.

    In a class more than there are one symbol has all slots: it takes no bits and leaves the state as it is, so lanes
    that are over can run on beside others.
    """
    full = torch.cat([frequencies, torch.zeros_like(frequencies[:1])])
    full[~full.any(dim=1), 0] = 1 << PRECISION
    flat = full.flatten()
    pair = torch.arange(len(flat), device=flat.device).repeat_interleave(flat)
    below = torch.arange(len(pair), device=flat.device) - (flat.cumsum(0) - flat)[pair]
    symbols = (pair % SYMBOLS - SYMBOLS // 2).to(torch.int8)
    return ((flat[pair] << PRECISION) | below.int()), symbols
