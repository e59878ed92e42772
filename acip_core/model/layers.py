"""The elastic linear layer: one dense weight and one factor bank, run at any rank without copying either.

    x (tokens, n) ──► down[:a+k] (a+k, n) ──► z (tokens, a+k) ──► up[:a+k] (a+k, m) ──► y (tokens, m)
                      └ first a rows: adapter A        first a rows: adapter Bᵀ ┘      rank DENSE → x Wᵀ

Rows of the bank come in descending order of score, so rank k is a prefix of it, a view. The ranks of all layers of a
model live in one `Cut`; changing size is assigning one tuple. A layer knows nothing of scores or of other layers.

In a batch whose sequences run at different sizes (`Ranks`), larger ones come first, so that the dense ones are a
slice and the others share the longest prefix, each with its latents zero beyond its own rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local
from typing import Any

import torch
from torch import nn

from .kernels import FEW, Linear, applies, linear, padded_rows, vector_product
from .size_planner import DENSE

_KEPT_SLICES = 16  # ranks of a layer whose views are kept
_LONG = 16  # tokens per sequence from which on products cost more than reading weights, and each runs on its own


@dataclass(frozen=True)
class Ranks:
    """One layer's ranks in a batch.

    Attributes:
        dense: sequences at the front of the batch that run the dense weight.
        ranks: of all others, descending.
        mask: (sequences after `dense`, 1, a + largest rank), 1 up to a sequence's own rank and 0 beyond.
    """

    dense: int
    ranks: tuple[int, ...]
    mask: torch.Tensor


Ranking = tuple[int | Ranks, ...]  # one per elastic layer of a model


class _ThreadRanks(local):
    """The ranks of one thread: those of an `on_this_thread` block, and those that its running pass began with."""

    ranks: Ranking | None = None
    held: Ranking | None = None


class Cut:
    """The ranks in force; replaced as a whole, never edited.

    A thread may run at other ranks than those set for all threads, and a pass runs to its end at the ranks it began
    with, whatever other threads set meanwhile.
    """

    def __init__(self, layers: int):
        self._set: Ranking = (DENSE,) * layers
        self._thread = _ThreadRanks()

    @property
    def ranks(self) -> Ranking:
        """Those of this thread or of its pass, otherwise those that were set for all."""
        return self._thread.ranks or self._thread.held or self._set

    @ranks.setter
    def ranks(self, ranks: Ranking) -> None:
        self._set = ranks

    @contextmanager
    def on_this_thread(self, ranks: Ranking) -> Iterator[None]:
        """Within the block, this thread runs at these ranks."""
        before, self._thread.ranks = self._thread.ranks, ranks
        try:
            yield
        finally:
            self._thread.ranks = before

    def hold(self, *_: Any) -> None:
        """A pass begins on this thread (a hook in front of the model's forward)."""
        self._thread.held = self._set

    def release(self, *_: Any) -> None:
        """The pass has ended (a hook behind the model's forward)."""
        self._thread.held = None

    def __reduce__(self) -> tuple[Any, ...]:  # copies and files have the ranks that were set
        return Cut, (0,), {"_set": self._set}


class Adapter(nn.Module):
    """A low-rank update being trained, `y += x Aᵀ Bᵀ · scaling`, as PEFT defines LoRA.

    Attributes:
        a: (rank, in_features), Kaiming-uniform.
        b: (out_features, rank), zero, so that training starts from the plain cut.
    """

    def __init__(self, layer: nn.Linear, rank: int, scaling: float, generator: torch.Generator):
        super().__init__()
        bound = layer.in_features**-0.5
        a = torch.empty(rank, layer.in_features).uniform_(-bound, bound, generator=generator)
        self.a = nn.Parameter(a.to(layer.weight.device))
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank, device=layer.weight.device))
        self.scaling = scaling

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(linear(x, self.a), self.b) * self.scaling


class ElasticLinear(Linear):
    """An `nn.Linear` that runs at the rank its `Cut` names; its state dict stays that of the `nn.Linear`.

    Attributes:
        down: (a + K, in_features), K directions below break-even after a adapter rows; not in the state dict.
        up: (a + K, out_features), likewise.
        adapter_rank: a, rows of the bank that belong to a trained adapter and run at every rank.
        adapter: set while adapters are trained; then the bank has no adapter rows (a = 0).
    """

    down: torch.Tensor
    up: torch.Tensor

    def __init__(self, layer: nn.Linear, index: int, cut: Cut, down: torch.Tensor, up: torch.Tensor):
        nn.Module.__init__(self)  # the parameters are taken over, not created
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.index, self.cut, self.adapter_rank = index, cut, 0
        self.register_buffer("down", down, persistent=False)
        self.register_buffer("up", up, persistent=False)
        self.adapter: Adapter | None = None
        self._slices: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.train(layer.training)

    def prepend_adapter(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Make a trained adapter, a (rank, in_features) and b (out_features, rank), the first rows of the bank."""
        self.down = torch.cat([a.to(self.down), self.down[self.adapter_rank :]])
        self.up = torch.cat([b.T.to(self.up), self.up[self.adapter_rank :]])
        self.adapter_rank = len(a)
        self.adapter = None
        self._slices.clear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rank = self.cut.ranks[self.index]
        if isinstance(rank, Ranks):
            return self._batch(x, rank)
        if rank == DENSE:
            return super().forward(x)  # the base model's own function: equal bit for bit, however many tokens
        if x.numel() == self.in_features and self._is_plain(x):
            return self._token(x, rank)
        return self._low_rank(x, self.adapter_rank + rank)

    def _is_plain(self, x: torch.Tensor) -> bool:
        """Whether nothing is wanted but the product in the weights' own precision."""
        return not (self.adapter is not None or torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type))

    def _token(self, x: torch.Tensor, rank: int) -> torch.Tensor:
        """One token (…, in_features): slicing the bank would take as long as multiplying with it."""
        if (parts := self._slices.get(rank)) is None:
            width = self.adapter_rank + rank
            if padded_rows(width, self.down, x) > width:
                return self._low_rank(x, width)
            if len(self._slices) >= _KEPT_SLICES:
                self._slices.clear()
            parts = self._slices[rank] = (self.down[:width], self.up[:width].t())
        row = x.reshape(self.in_features)
        y = vector_product(parts[1], vector_product(parts[0], row), self.bias)
        return y.view(*x.shape[:-1], self.out_features)

    def _apply(self, fn, recurse=True):
        self._slices.clear()  # of tensors that are about to be replaced
        return super()._apply(fn, recurse)

    def _low_rank(self, x: torch.Tensor, width: int, mask: torch.Tensor | None = None) -> torch.Tensor:
        whole = width if mask is not None else padded_rows(width, self.down, x)
        z = linear(x, self.down[:whole])
        if mask is not None:
            z = z * mask
        elif whole > width:
            z[..., width:] = 0
        y = linear(z, self.up[:whole].t(), self.bias)
        return y if self.adapter is None else y + self.adapter(x)

    def _batch(self, x: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        """Sequences (batch, tokens, in_features) at different ranks; some models (OPT) fold the first two axes."""
        rows = ranks.dense + len(ranks.ranks)
        if x.numel() == rows * self.in_features and rows <= FEW and applies(x) and self._is_plain(x):
            y = self._tokens(x.reshape(rows, self.in_features), ranks).view(*x.shape[:-1], self.out_features)
            return y if self.bias is None else y + self.bias
        sequences = x.reshape(rows, -1, self.in_features)
        parts = [super().forward(sequences[: ranks.dense])] if ranks.dense else []
        rest = sequences[ranks.dense :]
        if sequences.shape[1] >= _LONG:
            parts += [
                self._low_rank(row[None], self.adapter_rank + k) for row, k in zip(rest, ranks.ranks, strict=True)
            ]
        else:
            parts.append(self._low_rank(rest, ranks.mask.shape[-1], ranks.mask))
        return torch.cat(parts).view(*x.shape[:-1], self.out_features)

    def _tokens(self, x: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        """One token each (sequences, in_features), transposed in between: a few columns are the fastest in W xᵀ."""
        dense, width = ranks.dense, ranks.mask.shape[-1]
        z = torch.mm(self.down[:width], x[dense:].t())  # (width, sequences after the dense ones)
        y = torch.mm(z.t() * ranks.mask[:, 0], self.up[:width])
        return torch.cat([torch.mm(self.weight, x[:dense].t()).t(), y]) if dense else y

    def in_batch(self, ranks: Sequence[int]) -> int | Ranks:
        """What the `Cut` of a batch holds for this layer.

        Args:
            ranks: of each sequence, `DENSE` first, then descending.
        """
        if len(set(ranks)) == 1:
            return ranks[0]
        dense = sum(rank == DENSE for rank in ranks)
        widths = [self.adapter_rank + rank for rank in ranks[dense:]]
        mask = self.down.new_zeros(len(widths), 1, padded_rows(widths[0], self.down))
        for row, width in zip(mask, widths, strict=True):
            row[:, :width] = 1
        return Ranks(dense, tuple(ranks[dense:]), mask)
