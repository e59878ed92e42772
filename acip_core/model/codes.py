"""Low-bit codes of a weight: integers that a step of their row and column scales, found with error feedback.

A weight W (m, n) that reads inputs with second moment C and whose output's gradients have second moment G adds

    ΔL ≈ tr(G D C Dᵀ),   D = W − Ŵ

when Ŵ runs in its place. Rounding column by column, each error is moved onto the columns that are still to come (GPTQ,
arXiv 2210.17323: Babai's nearest plane in the lattice of C), and block by block onto the rows that are (the same with
G, as in arXiv 2505.22988). An entry's step is inverse to the weight that its error keeps after that, so all entries
of all layers of a model lose the same at the same level (reverse water-filling): one number, the level, is the
quality of the whole model, and how many bits an entry takes follows from its size.

All codes are entropy-coded (`entropy_coding`); nothing here is limited to whole bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .coded_modeling import EIGHTHS

_SPAN = 255  # of a matrix's exponents of one side, so that one byte holds each above the least
_SPARE = 55  # of these, for rows that feedback makes larger than all others
_DAMPING = (0.01, 0.03)  # of the mean of C's, of G's diagonal
_ROWS, _NARROW = 64, 576  # rows that are rounded before their errors reach the others; half of them up to so many rows
_COLUMNS = 64  # columns that are rounded before their errors reach the others in one product
_LIMIT = 120  # of a code, so that what feedback adds still fits a byte
_MOST = 127


@dataclass(frozen=True)
class Codes:
    """A matrix as integers: entry (i, j) is z[i, j] · 2^((rows[i] + columns[j]) / 8).

    Attributes:
        z: int8 (m, n).
        rows, columns: int16 (m,) and int16 (n,), exponents of the steps in eighths.
    """

    z: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor

    def matrix(self) -> torch.Tensor:
        """The matrix itself, float32 (m, n)."""
        return self.z.float() * steps(self.rows)[:, None] * steps(self.columns)

    def classes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the entropy coder knows of the magnitude of entries: uint8 (m,) and (n,), see `magnitude_classes`."""
        return magnitude_classes(self.z)


def steps(exponents: torch.Tensor) -> torch.Tensor:
    """2^(e/8), float32."""
    return torch.exp2(exponents.float() / EIGHTHS)


def magnitude_classes(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes 0…15 of rows and columns whose sum stands for the magnitude of an entry, in half octaves.

    Args:
        z: int8 (m, n).
    """
    size = z.abs().float()
    by_row, by_column = size.mean(1), size.mean(0)
    total = float(size.mean())
    if total == 0:
        return torch.zeros(len(z), dtype=torch.uint8), torch.zeros(z.shape[1], dtype=torch.uint8)
    level = 2 * math.log2(total) + 14  # of a row and a column of the average together
    rows = 2 * (by_row / total).clamp_min(2**-8).log2() + level / 2
    columns = 2 * (by_column / total).clamp_min(2**-8).log2() + level / 2
    return rows.round().clamp(0, 15).to(torch.uint8), columns.round().clamp(0, 15).to(torch.uint8)


def feedback(moment: torch.Tensor, damping: float) -> torch.Tensor:
    """How errors are fed back along one side: (n, n) upper triangular, its Gram matrix the inverse of a damped moment.

    Args:
        moment: (n, n), second moment.
        damping: what is added to its diagonal, in units of the diagonal's mean.
    """
    mean = moment.diagonal().mean().clamp_min(1e-30)
    damped = moment + torch.eye(len(moment), device=moment.device) * (damping * mean)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


@torch.no_grad()
def quantize(
    weight: torch.Tensor,
    inputs: torch.Tensor,
    gradients: torch.Tensor,
    levels: Sequence[int],
) -> list[Codes]:
    """Codes of a weight at several levels.

    Args:
        weight: (m, n).
        inputs: C (n, n), second moment of what it reads.
        gradients: G (m, m), second moment of the loss's gradients by its output.
        levels: exponents in eighths; at level l every entry is rounded in a step that, weighed by what its error
            costs, is 2^(l/8).
    """
    along = feedback(inputs, _DAMPING[0])
    across = feedback(gradients, _DAMPING[1])
    m, n = weight.shape
    row_block = _ROWS if m > _NARROW else _ROWS // 2
    columns = _within_span(_exponents(along.diagonal()))
    column_step = steps(columns)
    count = len(levels)
    level = torch.tensor(levels, device=weight.device)
    left = weight.float().expand(count, m, n).clone()
    z = torch.zeros(count, m, n, device=weight.device)
    exponents = torch.zeros(count, m, device=weight.device)
    inverses = _block_inverses(across, row_block)
    wanted = _exponents(torch.cat([(inverse @ inverse.T).diagonal() for inverse in inverses]).rsqrt())
    wanted, top = _row_range(wanted + level[:, None], (weight.float().abs() / column_step).amax(-1))
    for start, inverse in zip(range(0, m, row_block), inverses, strict=True):
        stop = min(start + row_block, m)
        largest = (left[:, start:stop].abs() / column_step).amax(-1)
        rows = torch.maximum(wanted[:, start:stop], _needed(largest)).minimum(top)  # feedback moves weights
        exponents[:, start:stop] = rows
        row_step = steps(rows)
        part = left[:, start:stop] / row_step[..., None] / column_step
        dead = _dead_zone(part)
        codes = _round(part, along / column_step, column_step, dead)
        z[:, start:stop] = codes
        if stop < m:
            error = left[:, start:stop] - codes * row_step[..., None] * column_step
            left[:, stop:] -= across[start:stop, stop:].T @ (inverse.T @ error)
    z, exponents, columns = z.to(torch.int8), exponents.to(torch.int16), columns.to(torch.int16)
    return [Codes(z[i], exponents[i], columns) for i in range(count)]


def _block_inverses(upper: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Inverses of the triangles along the diagonal."""
    blocks = [upper[i : i + size, i : i + size] for i in range(0, len(upper), size)]
    return [torch.linalg.solve_triangular(b, torch.eye(len(b), device=b.device), upper=True) for b in blocks]


def _needed(largest: torch.Tensor) -> torch.Tensor:
    """Exponents at which a magnitude, in units of the columns' steps, becomes the largest code that fits a byte."""
    return ((largest / _LIMIT).clamp_min(1e-30).log2() * EIGHTHS).ceil()


def _row_range(wanted: torch.Tensor, largest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows' exponents as wanted, raised where the largest code must fit a byte, or all exponents one; and their top.

    Args:
        wanted: (…, rows); largest: (rows,), the largest magnitude of each row in units of the columns' steps.
    """
    rows = torch.maximum(wanted, _needed(largest))
    top = rows.amax(-1, keepdim=True)
    return torch.maximum(rows, top - _SPAN + _SPARE), top + _SPARE


def _dead_zone(part: torch.Tensor) -> torch.Tensor:
    """Up to where an entry is rounded to zero, (levels, 1): 0.5 for fine steps, up to 0.62 for coarse ones.

    There zero takes so few bits that it is worth the larger error.
    """
    size = part.abs().mean((1, 2))
    return (0.62 - 0.06 * (size - 0.3).clamp(0, 2))[:, None]


def _exponents(scale: torch.Tensor) -> torch.Tensor:
    return (scale.clamp_min(1e-30).log2() * EIGHTHS).round()


def _within_span(exponents: torch.Tensor) -> torch.Tensor:
    """The smallest raised, so that a byte holds each above the least."""
    return torch.maximum(exponents, exponents.max() - _SPAN)


@torch.no_grad()
def quantize_table(weight: torch.Tensor, moment: torch.Tensor, weights: torch.Tensor, level: int, block: int) -> Codes:
    """Codes of an embedding or a head at one level.

    Args:
        weight: (tokens, n).
        moment: (n, n), second moment of what a row is multiplied with.
        weights: (tokens,), how often each row is.
        level: as in `quantize`.
        block: rows that are rounded at once.
    """
    upper = feedback(moment, _DAMPING[0])
    columns = _within_span(_exponents(upper.diagonal()))
    column_step = steps(columns)
    largest = torch.cat([(part.abs() / column_step).amax(1) for part in weight.split(block)])
    rows, _ = _row_range(_exponents(weights.rsqrt()) + level, largest)
    z = []
    for part, exponents in zip(weight.split(block), rows.split(block), strict=True):
        scaled = (part.float() / steps(exponents)[:, None] / column_step)[None]
        z.append(_round(scaled, upper / column_step, column_step, _dead_zone(scaled))[0].to(torch.int8))
    return Codes(torch.cat(z), rows.to(torch.int16), columns.to(torch.int16))


def _round(part: torch.Tensor, upper: torch.Tensor, column_step: torch.Tensor, dead: torch.Tensor) -> torch.Tensor:
    """Round (levels, rows, n), in units of the steps, column by column with feedback.

    On the CPU, wherever the weight is: a column takes ten small operations, and numpy begins each of them the soonest.

    Args:
        upper: the feedback's triangle, its columns divided by their steps.
        dead: (levels, 1), magnitude from which on an entry becomes 1.
    """
    device, part, upper = part.device, part.cpu(), upper.cpu()
    levels, rows, n = part.shape
    z = torch.empty_like(part)
    up = (1 - dead.cpu()).expand(levels, rows).flatten().numpy()
    for start in range(0, n, _COLUMNS):
        stop = min(start + _COLUMNS, n)
        block = part[..., start:stop].permute(2, 0, 1).flatten(1).contiguous()  # (columns, levels · rows)
        rounded, errors = _round_columns(block.numpy(), upper[start:stop, start:stop].numpy(), up)
        z[..., start:stop] = rounded.view(-1, levels, rows).permute(1, 2, 0)
        if stop < n:
            errors = errors.view(-1, levels, rows).transpose(0, 1).contiguous()
            part[..., stop:] -= errors.transpose(1, 2) @ upper[start:stop, stop:]
    return z.to(device)


def _round_columns(
    block: NDArray[np.float32], upper: NDArray[np.float32], up: NDArray[np.float32]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and errors (columns, entries) of a block of columns, which is used up.

    Args:
        upper: their part of the feedback's triangle.
        up: (entries,), what a magnitude is raised by before it is cut to an integer.
    """
    rounded, errors, moved = np.empty_like(block), np.empty_like(block), np.empty_like(block)
    most, diagonal = np.float32(_MOST), upper.diagonal()
    for j, (x, q, error) in enumerate(zip(block, rounded, errors, strict=True), 1):
        np.abs(x, q)
        np.add(q, up, q)
        np.trunc(q, q)
        np.minimum(q, most, q)
        np.copysign(q, x, q)
        np.subtract(x, q, error)
        np.divide(error, diagonal[j - 1], error)
        rest, change = block[j:], moved[j:]
        np.multiply(upper[j - 1, j:, None], error, change)
        np.subtract(rest, change, rest)
    return torch.from_numpy(rounded), torch.from_numpy(errors)
