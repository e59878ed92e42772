"""A weight's codes at all levels, and the embedding and head that run them.

Codes are integers Z (m, n) at a level, y = rows ∘ (Z (columns ∘ x)). They stay bytes, which may lie in a file, and
become numbers of the model's type a block at a time while they are multiplied with. An accelerator keeps the bytes of
the level that was run last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from .coded_modeling import embedding_scale
from .codes import Codes, steps
from .cut import Cut, Segments, State
from .kernels import Linear, TokenProduct, linear
from .operating_points import code_of, is_coded
from .size_planner import DENSE

_ROWS = 2048  # of Z that become numbers at once


class CodeBank(nn.Module):
    """A weight's codes at all levels, which `ElasticLinear`, or an embedding, runs at.

    Attributes:
        codes: of each level, the finest first; integers that may lie in a file.
        a, b: (rank, in_features) and (out_features, rank), the adapter of coded layers, empty where none was trained.
    """

    a: torch.Tensor
    b: torch.Tensor

    def __init__(self, codes: Sequence[Codes], weight: torch.Tensor):
        super().__init__()
        self.codes = tuple(codes)
        m, n = codes[0].z.shape
        self.register_buffer("a", weight.new_zeros(0, n), persistent=False)
        self.register_buffer("b", weight.new_zeros(m, 0), persistent=False)
        self.rows = [steps(code.rows).to(weight) for code in codes]
        self.columns = [steps(code.columns).to(weight) for code in codes]
        self._kept: tuple[int, torch.Tensor] | None = None

    def _apply(self, fn, recurse=True):
        self.rows, self.columns = [fn(t) for t in self.rows], [fn(t) for t in self.columns]
        self._kept = None
        return super()._apply(fn, recurse)

    def product(self, x: torch.Tensor, level: int, keep: bool = True) -> torch.Tensor:
        """Ŵ x, (…, out_features), for x (…, in_features).

        Args:
            keep: False leaves what an accelerator keeps in place, for a level that is run beside it.
        """
        x, z = x * self.columns[level], self._integers(level, keep)
        # Bytes that become numbers in a processor's cache are read faster than the numbers would be.
        parts = [linear(x, rows.to(self.a.dtype)) for rows in z.split(_ROWS)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, -1)) * self.rows[level]

    def _integers(self, level: int, keep: bool) -> torch.Tensor:
        """Z of a level, int8 (m, n) on the model's device."""
        if self.a.device.type == "cpu":
            return self.codes[level].z
        kept = self._kept  # replaced as a whole: another thread may do so at any moment
        if kept is not None and kept[0] == level:
            return kept[1]
        z = self.codes[level].z.to(self.a.device)
        if keep:
            self._kept = level, z
        return z

    def lookup(self, ids: torch.Tensor, level: int) -> torch.Tensor:
        """Rows of Ŵ, (…, in_features)."""
        z = self.codes[level].z
        picked = z[ids.to(z.device)].to(ids.device).to(self.a.dtype)
        return picked * self.rows[level][ids][..., None] * self.columns[level]


class CodedEmbedding(nn.Embedding):
    """An embedding that runs its weight, as the class behind this one does, or codes of it."""

    bank: CodeBank
    cut: Cut
    index: int

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        state = _state(self.cut, self.index)
        if isinstance(state, Segments):
            rows = ids.reshape(sum(count for count, _ in state.states), -1)
            parts = [self._at(part, s) for part, s in split(rows, state)]
            return torch.cat(parts).view(*ids.shape, -1)
        return self._at(ids, state)

    def _at(self, ids: torch.Tensor, state: State) -> torch.Tensor:
        if state == DENSE:
            return super().forward(ids)
        assert isinstance(state, int)
        rows, scale = self.bank.lookup(ids, code_of(state)[0]), embedding_scale(self)
        return rows if scale == 1 else rows * scale


class CodedHead(Linear):
    """A model's head that runs its weight or codes of it."""

    bank: CodeBank
    cut: Cut
    index: int

    @property
    def state(self) -> State:
        """What the head runs at on this thread."""
        return _state(self.cut, self.index)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.state
        if isinstance(state, Segments):
            rows = x.reshape(sum(count for count, _ in state.states), -1, self.in_features)
            levels = [s for _, s in state.states if is_coded(s)]
            parts = [self._at(part, s, s == levels[0]) for part, s in split(rows, state)]
            return torch.cat(parts).view(*x.shape[:-1], self.out_features)
        return self._at(x, state)

    def _at(self, x: torch.Tensor, state: State, keep: bool = True) -> torch.Tensor:
        if state == DENSE:
            return super().forward(x)
        assert isinstance(state, int)
        y = self.bank.product(x, code_of(state)[0], keep)
        return y if self.bias is None else y + self.bias

    def token_product(self) -> TokenProduct:
        state = self.state
        return super().token_product() if state == DENSE else lambda x, _: self.forward(x)


def _state(cut: Cut, index: int) -> State:
    """Of a coded table; plans that know of none leave it as it is."""
    return cut.ranks[index] if index < len(cut.ranks) else DENSE


def split(rows: torch.Tensor, segments: Segments) -> Iterator[tuple[torch.Tensor, int]]:
    """The neighbouring sequences that run at one state, of all (batch, …), and that state."""
    start = 0
    for count, state in segments.states:
        yield rows[start : start + count], state
        start += count


def segments(states: Sequence[int]) -> State:
    """What the `Cut` of a batch holds for a layer of which some sequence runs codes."""
    runs: list[tuple[int, int]] = []
    for state in states:
        if runs and runs[-1][1] == state:
            runs[-1] = runs[-1][0] + 1, state
        else:
            runs.append((1, state))
    return runs[0][1] if len(runs) == 1 else Segments(tuple(runs))
