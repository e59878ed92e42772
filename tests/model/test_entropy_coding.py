"""Entropy coding: what was coded comes back, in bytes that an obvious loop reads, near the ideal length."""

from __future__ import annotations

import hashlib
import importlib.util
import math

import pytest
import torch
from torch import Tensor

from acip_core.model import entropy_decoding
from acip_core.model.entropy_coding import Coded, Tables, encode, histogram
from acip_core.model.entropy_decoding import CLASSES, PRECISION, SYMBOLS, decode, lanes_of, read_frequencies
from tests.support.tiny import generator

SHAPES = [(1, 1), (1, 40_000), (40_000, 1), (3, 5), (70, 90), (576, 192), (129, 511), (1, 16_385), (300, 0)]


def laplacian(shape: tuple[int, int], seed: int, spread: float = 0.003, classes: int = 16) -> Coded:
    """Codes whose spread grows by half an octave with each class."""
    g = generator(seed)
    rows, columns = (torch.randint(classes, (size,), generator=g, dtype=torch.uint8) for size in shape)
    uniform = torch.rand(shape, generator=g) - 0.5
    values = uniform.sign() * torch.log1p(-2 * uniform.abs()) * spread * 2 ** ((rows[:, None] + columns) / 2)
    return Coded(values.round().clamp(-128, 127).to(torch.int8), rows, columns)


def tables_of(*matrices: Coded) -> Tables:
    return Tables.of(sum((histogram(x.z, x.rows, x.columns) for x in matrices), torch.zeros(CLASSES, SYMBOLS).long()))


def decoded(streams: list[Tensor], matrices: list[Coded], tables: Tables) -> list[Tensor]:
    return decode(streams, [x.rows for x in matrices], [x.columns for x in matrices], tables.frequencies)


def round_trip(*matrices: Coded) -> list[Tensor]:
    tables = tables_of(*matrices)
    streams = encode(matrices, tables)
    for z, x in zip(decoded(streams, list(matrices), tables), matrices, strict=True):
        assert z.dtype == torch.int8 and torch.equal(z, x.z)
    return streams


def loop(stream: Tensor, x: Coded, tables: Tables) -> list[list[int]]:
    """The codes one by one, as the equations of `entropy_decoding` have them."""
    m, n = x.z.shape
    lanes, total = lanes_of(m * n), 1 << PRECISION
    numbers = [low + 256 * high for low, high in stream.view(-1, 2).tolist()]
    low, high, length = (numbers[i * lanes : (i + 1) * lanes] for i in range(3))
    words = numbers[3 * lanes :]
    frequencies, codes = tables.frequencies.tolist(), [0] * (m * n)
    for lane in range(lanes):
        state, own = low[lane] + (high[lane] << 16), iter(words[sum(length[:lane]) : sum(length[: lane + 1])])
        for place in range(lane, m * n, lanes):
            row = frequencies[int(x.rows[place // n]) + int(x.columns[place % n])]
            symbol, below = 0, 0
            while below + row[symbol] <= state % total:
                below, symbol = below + row[symbol], symbol + 1
            codes[place] = symbol - 128
            state = row[symbol] * (state // total) + state % total - below
            if state < 1 << 15:
                state = (state << 16) + next(own)
        check = sum((1 + 2 * (t % 127)) * code for t, code in enumerate(codes[lane::lanes]))
        assert state == (1 << 15) + check % (1 << 15) and next(own, None) is None
    return [codes[i * n : (i + 1) * n] for i in range(m)]


@pytest.mark.parametrize("shape", SHAPES)
def test_codes_come_back(shape: tuple[int, int]) -> None:
    round_trip(laplacian(shape, seed=sum(shape)))


def test_codes_of_many_matrices_come_back_in_their_places() -> None:
    round_trip(*(laplacian(shape, seed) for seed, shape in enumerate(SHAPES)))


@pytest.mark.parametrize("fill", [0, -128, 127])
def test_equal_codes_take_no_words(fill: int) -> None:
    codes = torch.full((100, 400), fill, dtype=torch.int8)
    x = Coded(codes, torch.zeros(100, dtype=torch.uint8), torch.full((400,), 15, dtype=torch.uint8))
    assert len(round_trip(x)[0]) == 6 * lanes_of(40_000)


def test_every_code_in_every_class_comes_back() -> None:
    codes = torch.randint(-128, 128, (512, 300), generator=generator(1)).to(torch.int8)
    x = Coded(codes, (torch.arange(512) % 16).to(torch.uint8), (torch.arange(300) % 16).to(torch.uint8))
    assert {-128, 127} <= set(x.z.flatten().tolist())
    assert (tables_of(x).frequencies.sum(1) == 1 << PRECISION).all()  # classes 0 to 30
    round_trip(x)


def test_rare_codes_come_back() -> None:
    """One code among thousands of zeros has the least frequency and the longest code."""
    codes = torch.zeros(200, 300, dtype=torch.int8)
    codes[0, 0], codes[120, 17], codes[199, 299] = -128, 127, 1
    round_trip(Coded(codes, torch.zeros(200, dtype=torch.uint8), torch.zeros(300, dtype=torch.uint8)))


def test_an_obvious_loop_reads_the_bytes() -> None:
    x = laplacian((191, 211), seed=3)
    tables = tables_of(x)
    assert lanes_of(x.z.numel()) > 1 and x.z.numel() % lanes_of(x.z.numel())
    assert loop(encode([x], tables)[0], x, tables) == x.z.tolist()


def test_bytes_do_not_depend_on_other_matrices_or_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(1, 1), (3, 5), (129, 211), (70, 90), (30, 0), (1, 16_385)]
    matrices = [laplacian(shape, seed) for seed, shape in enumerate(shapes)]
    tables = tables_of(*matrices)
    together = encode(matrices, tables)
    for stream, x in zip(together, matrices, strict=True):
        assert torch.equal(stream, encode([x], tables)[0])
    monkeypatch.setattr(entropy_decoding, "GROUP", 7_000)
    monkeypatch.setattr(entropy_decoding, "BLOCK", 100)
    assert all(map(torch.equal, together, encode(matrices, tables)))
    assert all(torch.equal(z, x.z) for z, x in zip(decoded(together, matrices, tables), matrices, strict=True))
    assert torch.equal(decoded(together[2:3], matrices[2:3], tables)[0], matrices[2].z)
    assert encode([], tables) == decoded([], [], tables) == []


@pytest.mark.parametrize("spread", [0.01, 0.0025])
def test_the_length_is_near_the_ideal(spread: float) -> None:
    x = laplacian((1536, 576), seed=5, spread=spread)
    counts = histogram(x.z, x.rows, x.columns)
    p = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    ideal = -torch.special.xlogy(counts, p).sum().item() / math.log(2)
    tables = Tables.of(counts)
    assert ideal <= tables.bits(counts) <= 1.0015 * ideal
    assert tables.bits(counts) <= 8 * len(encode([x], tables)[0]) <= 1.005 * ideal


def test_a_histogram_counts_codes_by_class() -> None:
    x = laplacian((1100, 7), seed=6)
    counts = torch.zeros(CLASSES, SYMBOLS, dtype=torch.int64)
    for i, row in enumerate(x.z.tolist()):
        for j, code in enumerate(row):
            counts[int(x.rows[i]) + int(x.columns[j]), code + 128] += 1
    assert torch.equal(histogram(x.z, x.rows, x.columns), counts)


def test_frequencies_are_exact_and_never_zero_for_what_occurs() -> None:
    counts = torch.zeros(CLASSES, SYMBOLS, dtype=torch.int64)
    counts[0, 7] = 5
    counts[1] = 1
    counts[2, 3:6] = torch.tensor([1, 10**12, 1])
    counts[3, :128] = torch.arange(128) ** 3
    counts[4, [0, 255]] = torch.tensor([3, 1])
    f = Tables.of(counts).frequencies
    total = 1 << PRECISION
    assert f.sum(dim=1).tolist() == [total] * 5 + [0] * 26
    assert torch.equal(f > 0, counts > 0)
    assert f[0, 7] == total and f[1].unique().tolist() == [total // 256]
    assert f[2, 3:6].tolist() == [1, total - 2, 1] and f[4, [0, 255]].tolist() == [3 * total // 4, total // 4]
    share = counts[3] / counts[3].sum() * total
    assert (f[3] - share).abs().max() < 2


def test_tables_come_back_from_a_few_kilobytes() -> None:
    tables = tables_of(laplacian((576, 576), seed=7))
    stored = tables.tensor()
    assert stored.dtype == torch.uint8 and stored.ndim == 1 and len(stored) < 6000
    assert torch.equal(Tables.read(stored).frequencies, tables.frequencies)
    empty = Tables.of(torch.zeros(CLASSES, SYMBOLS, dtype=torch.int64))
    assert torch.equal(Tables.read(empty.tensor()).frequencies, empty.frequencies)


def test_damaged_tables_are_refused() -> None:
    stored = tables_of(laplacian((60, 60), seed=8)).tensor()
    flipped, shifted = stored.clone(), stored.clone()
    flipped[-1] ^= 1
    shifted[1] += 1
    for damaged in (stored[:-2], stored[:-1], stored[:10], flipped, shifted, stored.int(), stored[None]):
        with pytest.raises(ValueError, match="table of symbol frequencies is damaged"):
            read_frequencies(damaged)


@pytest.mark.parametrize("spread", [0.003, 0.25])
def test_damaged_bytes_are_refused_by_name(spread: float) -> None:
    """With the wider spread most codes are -128 or 127: a wrong bit of a state is one wrong code, and leaves it."""
    matrices = [laplacian((80, 100), seed, spread) for seed in range(3)]
    tables = tables_of(*matrices)
    streams = encode(matrices, tables)
    good = streams[1]
    cut = [good[:-2], good[:-1], good[:10], good[:0], torch.cat([good, good[:2]]), good.int()]
    for place in (0, 9, 20, 24, len(good) // 2, len(good) - 1):
        flipped = good.clone()
        flipped[place] ^= 16
        cut.append(flipped)
    swapped = good.clone()
    swapped[24:] = good[24:].flip(0)
    for damaged in (*cut, swapped, torch.zeros_like(good), torch.full_like(good, 255)):
        with pytest.raises(ValueError, match="matrix 1 are damaged"):
            decoded([streams[0], damaged, streams[2]], matrices, tables)


def test_other_classes_are_refused() -> None:
    x = laplacian((200, 300), seed=9, classes=8)
    tables = tables_of(x)
    stream = encode([x], tables)[0]
    for rows, columns in ((x.rows.flip(0), x.columns), (x.rows, x.columns[:-1])):
        with pytest.raises(ValueError, match="matrix 0 are damaged"):
            decode([stream], [rows], [columns], tables.frequencies)
    with pytest.raises(ValueError, match="class 15, for which"):
        decode([stream], [x.rows + 15], [x.columns], tables.frequencies)
    with pytest.raises(ValueError, match="uint8"):
        decode([stream], [x.rows.int()], [x.columns], tables.frequencies)


def test_codes_without_a_frequency_are_refused() -> None:
    x = laplacian((50, 60), seed=10)
    tables = tables_of(x)
    lowest = int(x.z[(x.rows[:, None] + x.columns) == 3].min()) - 1
    z = x.z.clone()
    i, j = ((x.rows[:, None] + x.columns) == 3).nonzero()[0].tolist()
    z[i, j] = lowest
    with pytest.raises(ValueError, match=f"no frequency for code {lowest} in class 3"):
        encode([Coded(z, x.rows, x.columns)], tables)
    with pytest.raises(ValueError, match="int8, with a class"):
        Coded(z, x.rows[1:], x.columns)


def test_bytes_are_the_same_on_every_machine() -> None:
    """What was written once must be read for ever: a change of these is a change of the format."""
    i, j = torch.arange(150)[:, None], torch.arange(333)
    z = ((7 * i * i + 13 * j + i * j) % 23 - 11) * ((i + 3 * j) % 5 == 0)
    x = Coded(z.to(torch.int8), (i.flatten() % 16).to(torch.uint8), (j % 16).to(torch.uint8))
    tables = tables_of(x)
    parts = (tables.tensor(), encode([x], tables)[0])
    assert [hashlib.sha256(bytes(part.tolist())).hexdigest()[:16] for part in parts] == [
        "5ced7421262b1db5",
        "7d340647a9d4e253",
    ]


def test_the_decoder_needs_nothing_but_torch() -> None:
    """A copy of its file, outside of the package, reads the bytes."""
    spec = importlib.util.spec_from_file_location("alone", entropy_decoding.__file__)
    assert spec is not None and spec.loader is not None
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    x = laplacian((90, 70), seed=11)
    tables = tables_of(x)
    streams, stored = encode([x], tables), tables.tensor()
    with torch.device("meta"):  # as transformers has it while it builds a model
        z = alone.decode(streams, [x.rows], [x.columns], alone.read_frequencies(stored))
    assert torch.equal(z[0], x.z)
    imports = [line for line in spec.loader.get_source("alone").splitlines() if line.startswith(("import", "from"))]
    assert all(
        line.split()[1].split(".")[0] in {"__future__", "bisect", "collections", "itertools", "torch"}
        for line in imports
    )
