"""The elastic linear layer: one dense weight, one factor bank and one bank of codes, run at any state without a copy.

    x (tokens, n) ──► down[:a+k] (a+k, n) ──► z (tokens, a+k) ──► up[:a+k] (a+k, m) ──► y (tokens, m)
                      └ first a rows: adapter A        first a rows: adapter Bᵀ ┘      rank DENSE → x Wᵀ

Rows of the bank come in descending order of score, so rank k is a prefix of it, a view. The ranks of all layers of a
model live in one `Cut`; changing size is assigning one tuple. A layer knows nothing of scores or of other layers.

In a batch whose sequences run at different sizes (`Ranks`), larger ones come first, so that the dense ones are a
slice and the others share the longest prefix, each with its latents zero beyond its own rank.

A layer's state is one number: a rank, `DENSE`, or that of codes (`operating_points.coded_state`). Codes are integers,

    y = rows ∘ (Z (columns ∘ x)) + B A x        Z (m, n) at a level, (A, B) the adapter of coded layers

turned into numbers of the model's type a block at a time, while they are multiplied with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from .coded_layers import CodeBank, segments, split
from .cut import Cut, Ranks, Segments, State
from .kernels import FEW, Linear, TokenProduct, applies, linear, padded, padded_rows, token_product
from .operating_points import code_of, is_coded
from .size_planner import DENSE

_KEPT_PRODUCTS = 16  # states of a layer whose products with one token are kept
_LONG = 16  # tokens per sequence from which on products cost more than reading weights, and each runs on its own


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
    """An `nn.Linear` that runs at the state its `Cut` names; its state dict stays that of the `nn.Linear`.

    Attributes:
        bank: codes of the weight, None where there are none.
        down: (a + K, in_features), K directions below break-even after a adapter rows; not in the state dict. May be
            of less precision than the weight (`store_factors`); rows that run become numbers of the weight's type.
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
        self.bank: CodeBank | None = None
        self._products: dict[int, TokenProduct] = {}
        self.train(layer.training)

    def update(self, down: torch.Tensor, up: torch.Tensor) -> None:
        """Add what training changed, (K, in_features) and (K, out_features), to the first K directions of the bank.

        One that ends earlier, as break-even of another storage makes it, takes what it has rows for.
        """
        for bank, more in ((self.down, down), (self.up, up)):
            rows = bank[self.adapter_rank : self.adapter_rank + len(more)]
            rows += more[: len(rows)].to(bank)
        self._products.clear()

    def prepend_adapter(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Make a trained adapter, a (rank, in_features) and b (out_features, rank), the first rows of the bank."""
        self.down = torch.cat([a.to(self.down), self.down[self.adapter_rank :]])
        self.up = torch.cat([b.T.to(self.up), self.up[self.adapter_rank :]])
        self.adapter_rank = len(a)
        self.adapter = None
        self._products.clear()

    def store_factors(self, dtype: torch.dtype) -> None:
        """Hold the bank in another dtype."""
        self.down, self.up = self.down.to(dtype), self.up.to(dtype)
        self._products.clear()

    def forget_products(self) -> None:
        """Let go of what holds views of the bank; whoever puts other tensors in its place calls it."""
        self._products.clear()

    @property
    def state(self) -> State:
        """What this layer runs at on this thread."""
        return self.cut.ranks[self.index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rank = self.state
        if isinstance(rank, Ranks):
            return self._batch(x, rank)
        if isinstance(rank, Segments):
            return self._segments(x, rank)
        return self._at(x, rank)

    def _at(self, x: torch.Tensor, rank: int, keep: bool = True) -> torch.Tensor:
        if rank == DENSE:
            return super().forward(x)  # the base model's own function: equal bit for bit, however many tokens
        if is_coded(rank):
            return self._coded(x, *code_of(rank), keep)
        if x.numel() == self.in_features and self._is_plain(x):
            y = self._product(rank)(x.reshape(1, self.in_features), None)
            return y.view(*x.shape[:-1], self.out_features)
        return self._low_rank(x, self.adapter_rank + rank)

    def _coded(self, x: torch.Tensor, level: int, adapted: bool, keep: bool) -> torch.Tensor:
        bank = self.bank
        assert bank is not None
        y = bank.product(x, level, keep)
        if self.bias is not None:
            y = y + self.bias
        if not adapted:
            return y
        return y + (linear(linear(x, bank.a), bank.b) if self.adapter is None else self.adapter(x))

    def _segments(self, x: torch.Tensor, segments: Segments) -> torch.Tensor:
        """Sequences at states of which some are codes, each run on its own; an accelerator keeps the first level."""
        rows = x.reshape(sum(count for count, _ in segments.states), -1, self.in_features)
        levels = [code_of(state)[0] for _, state in segments.states if is_coded(state)]
        parts = [
            self._at(part, state, is_coded(state) and code_of(state)[0] == levels[0])
            for part, state in split(rows, segments)
        ]
        return torch.cat(parts).view(*x.shape[:-1], self.out_features)

    def _is_plain(self, x: torch.Tensor) -> bool:
        """Whether nothing is wanted but the product in the weights' own precision."""
        return not (self.adapter is not None or torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type))

    def token_product(self) -> TokenProduct:
        return self._product(self.state)

    def _product(self, state: State) -> TokenProduct:
        """One token's features through the layer at a state; slicing the bank would take as long as multiplying."""
        if not isinstance(state, int) or self.adapter is not None:
            return lambda x, _: self.forward(x)
        if is_coded(state):
            return lambda x, _: self._coded(x, *code_of(state), True)
        if (product := self._products.get(state)) is None:
            if len(self._products) >= _KEPT_PRODUCTS:
                self._products.clear()
            product = self._products[state] = self._make_product(state)
        return product

    def _make_product(self, state: int) -> TokenProduct:
        if state == DENSE:
            return super().token_product()
        width = self.adapter_rank + state
        if self.down.dtype != self.weight.dtype:
            return lambda x, _: self._low_rank(x, width)
        whole = padded_rows(width, len(self.down), max(self.down[:1], self.up[:1], key=torch.numel))
        down, up = token_product(self.down[:whole]), token_product(self.up[:whole].t(), self.bias)
        if whole == width:
            return lambda x, both: up(down(x, both).contiguous(), None)

        def padded(x: torch.Tensor, both: torch.Tensor | None) -> torch.Tensor:
            z = down(x, both).contiguous()
            z[:, width:] = 0
            return up(z, None)

        return padded

    def _apply(self, fn, recurse=True):
        self._products.clear()  # of tensors that are about to be replaced
        return super()._apply(fn, recurse)

    def _low_rank(self, x: torch.Tensor, width: int, mask: torch.Tensor | None = None) -> torch.Tensor:
        whole = width if mask is not None else padded_rows(width, len(self.down), x)
        z = linear(x, self.down[:whole].to(self.weight.dtype))
        if mask is not None:
            z = z * mask
        elif whole > width:
            z[..., width:] = 0
        y = linear(z, self.up[:whole].to(self.weight.dtype).t(), self.bias)
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
        """One token each (sequences, in_features)."""
        dense, width = ranks.dense, ranks.mask.shape[-1]
        z = linear(x[dense:], self.down[:width].to(self.weight.dtype)) * ranks.mask[:, 0]
        y = linear(z, self.up[:width].to(self.weight.dtype).t())
        return torch.cat([linear(x[:dense], self.weight), y]) if dense else y

    def in_batch(self, ranks: Sequence[int]) -> State:
        """What the `Cut` of a batch holds for this layer.

        Args:
            ranks: of each sequence; `DENSE` first and then descending, or they run one after another.
        """
        order = [math.inf if rank == DENSE else rank for rank in ranks]
        if len(set(ranks)) == 1 or any(map(is_coded, ranks)) or order != sorted(order, reverse=True):
            return segments(ranks)
        dense = sum(rank == DENSE for rank in ranks)
        return Ranks(dense, tuple(ranks[dense:]), partial(self._mask, ranks[dense:]))

    def _mask(self, ranks: Sequence[int]) -> torch.Tensor:
        widths = [self.adapter_rank + rank for rank in ranks]
        whole = padded(widths[0], len(self.down)) if applies(self.weight) else widths[0]
        mask = self.down.new_zeros(len(widths), 1, whole, dtype=self.weight.dtype)
        for row, width in zip(mask, widths, strict=True):
            row[:, :width] = 1
        return mask
