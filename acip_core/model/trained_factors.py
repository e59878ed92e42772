"""What training adds to the factors of a layer, in 1.6 bits an entry: signs and zeros, one scale a row.

A layer's bank is its singular directions plus this difference; the difference alone has to be kept, for every machine
finds the same directions (`factorization.factorize_two_sided`). Entries below 0.7 of their row's mean magnitude are
zero, the others ± the mean of those that are left (ternary weight networks, arXiv 1605.04711); five fit a byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..storage.verified import read_tensors, save_tensors

_THRESHOLD = 0.7
_PLACES = torch.tensor([1, 3, 9, 27, 81], dtype=torch.uint8)  # of five ternary digits in a byte


@dataclass(frozen=True)
class Ternary:
    """A matrix of signs and zeros with a scale for each row.

    Attributes:
        digits: uint8 (⌈rows · columns / 5⌉,), five entries each.
        scale: (rows,), float32: two-sided rows span more orders of magnitude than 16 bits do.
        columns: of the matrix.
    """

    digits: torch.Tensor
    scale: torch.Tensor
    columns: int

    @classmethod
    def of(cls, matrix: torch.Tensor) -> Ternary:
        """The nearest such matrix to one (rows, columns)."""
        signs, scale = (part.cpu() for part in signs_and_scale(matrix.detach().float()))
        flat = (signs + 1).to(torch.uint8).flatten()
        flat = torch.cat([flat, flat.new_zeros(-len(flat) % len(_PLACES))]).view(-1, len(_PLACES))
        return cls((flat * _PLACES).sum(1, dtype=torch.uint8), scale, matrix.shape[1])

    def matrix(self) -> torch.Tensor:
        """float32 (rows, columns)."""
        values = torch.arange(3 ** len(_PLACES), dtype=torch.uint8)
        digits = (values[:, None] // _PLACES % 3).float() - 1  # of every byte
        entries = digits[self.digits.long()].flatten()[: len(self.scale) * self.columns]
        return entries.view(len(self.scale), self.columns) * self.scale[:, None]


def signs_and_scale(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a matrix (rows, columns) is rounded to: -1, 0 or 1 for each entry, and a scale for each row (rows,)."""
    size = matrix.abs()
    on = size > _THRESHOLD * size.mean(1, keepdim=True)
    return on * matrix.sign(), (size * on).sum(1) / on.sum(1).clamp_min(1)


@dataclass(frozen=True)
class FactorUpdate:
    """What training added to one layer's bank, rows in its order.

    Attributes:
        down: (K, in_features).
        up: (K, out_features).
    """

    down: Ternary
    up: Ternary


def save_updates(updates: Mapping[str, FactorUpdate], path: Path) -> None:
    """Write `factors.safetensors`: digits and scales of both factors of every layer."""
    tensors: dict[str, torch.Tensor] = {}
    for name, update in updates.items():
        for side, part in vars(update).items():
            tensors |= {f"{name}.{side}": part.digits, f"{name}.{side}.scale": part.scale}
    save_tensors(tensors, path)


def read_updates(path: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, FactorUpdate]:
    """Read what `save_updates` wrote.

    Args:
        shapes: (out_features, in_features) of every layer.

    Raises:
        One of `verified.DAMAGE`: not such a file, or one of other layers.
    """
    tensors, _ = read_tensors(path, mapped=True)

    def take(key: str, columns: int) -> Ternary:
        digits, scale = tensors[key], tensors[f"{key}.scale"].float()
        if digits.dtype != torch.uint8 or digits.shape != (-(-len(scale) * columns // len(_PLACES)),):
            raise ValueError(f"'{key}' is malformed")
        if not scale.isfinite().all() or (len(digits) and int(digits.max()) >= 3 ** len(_PLACES)):
            raise ValueError(f"'{key}' holds values that are no factors'")
        return Ternary(digits, scale, columns)

    updates = {}
    for name, (m, n) in shapes.items():
        updates[name] = FactorUpdate(take(f"{name}.down", n), take(f"{name}.up", m))
        rows = {len(part.scale) for part in vars(updates[name]).values()}
        if len(rows) > 1 or max(rows) > min(m, n):
            raise ValueError(f"the factors of '{name}' do not fit a {m} × {n} layer")
    return updates
