"""The elastic linear layer: one dense weight and one factor bank, run at any rank without copying either.

    x (tokens, n) ──► down[:a+k] (a+k, n) ──► z (tokens, a+k) ──► up[:a+k] (a+k, m) ──► y (tokens, m)
                      └ first a rows: adapter A        first a rows: adapter Bᵀ ┘      rank DENSE → x Wᵀ

Rows of the bank come in descending order of score, so rank k is a prefix of it, a view. The ranks of all layers of a
model live in one `Cut`; changing size is assigning one tuple. A layer knows nothing of scores or of other layers.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .sizing import DENSE


class Cut:
    """The ranks in force, one per elastic layer of a model; replaced as a whole, never edited."""

    def __init__(self, layers: int):
        self.ranks: tuple[int, ...] = (DENSE,) * layers


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
        return F.linear(F.linear(x, self.a), self.b) * self.scaling


class ElasticLinear(nn.Linear):
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
        self.train(layer.training)

    def put_in_front(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Make a trained adapter, a (rank, in_features) and b (out_features, rank), the first rows of the bank."""
        self.down = torch.cat([a.to(self.down), self.down[self.adapter_rank :]])
        self.up = torch.cat([b.T.to(self.up), self.up[self.adapter_rank :]])
        self.adapter_rank = len(a)
        self.adapter = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rank = self.cut.ranks[self.index]
        if rank == DENSE:
            return F.linear(x, self.weight, self.bias)
        width = self.adapter_rank + rank
        y = F.linear(x, self.down[:width]) @ self.up[:width]
        if self.adapter is not None:
            y = y + self.adapter(x)
        return y if self.bias is None else y + self.bias
