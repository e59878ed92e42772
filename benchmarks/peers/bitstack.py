"""BitStack (arXiv 2410.23918): rounds of signs and a low-rank magnitude, stacked as far as the bytes go.

    W diag(s) ≈ Σ_t sign(R_t) ∘ (U_t V_t),   R_1 = W diag(s),   R_{t+1} = R_t − sign(R_t) ∘ (U_t V_t)

with s the root mean square of each column of the input, U_t V_t the best approximation of |R_t| of a fixed rank in
float16, and one bit for each sign. The rounds of all layers are sorted by the loss that each is predicted to take
away, tr(G D C Dᵀ), ÷ its bytes. (Its authors measure perplexity for each round instead, with all other layers whole.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from acip_core.progress import Progress, Steps

from .stored import Stored, pack, unpack
from .subject import Peer, Subject

RANKS = (16, 4)  # as published, for widths of 4,096; and one whose factors take as large a share of 576
_ROUNDS = 6  # of a layer; the sizes below take about four
_OVERSAMPLED, _ITERATIONS = 8, 4  # of the subspace that holds the leading directions
_MEGABYTES = (90, 75)  # at 55 its perplexity is that of noise


@dataclass(frozen=True)
class Block:
    """One round of one layer.

    Attributes:
        signs: uint8, a bit an entry; u, v: float16 (m, rank) and (rank, n).
        gain: predicted loss that it takes away.
    """

    signs: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor
    gain: float

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {"signs": self.signs, "u": self.u, "v": self.v}

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def matrix(self) -> torch.Tensor:
        """What it adds, float32 (m, n)."""
        return signed(self.signs, self.u, self.v)


def bitstack_peers(subject: Subject) -> list[Peer]:
    """Several sizes of one stack, for each rank."""
    return [
        Peer("bitstack", f"rank {stack.rank}, {megabytes} MB", lambda s=stack, mb=megabytes: s.within(mb * 1e6))
        for stack in (Stack(subject, rank) for rank in RANKS)
        for megabytes in _MEGABYTES
    ]


class Stack:
    """The rounds of all layers, made when first asked for."""

    def __init__(self, subject: Subject, rank: int):
        self.subject, self.rank = subject, rank
        self._blocks: dict[str, list[Block]] = {}
        self._scales: dict[str, torch.Tensor] = {}

    def within(self, size: float) -> Steps[dict[str, Stored]]:
        """The layers of a model of at most so many bytes; one without any block is zero."""
        yield from self._make()
        left = size - self.subject.bytes({name: self._stored(name, 0) for name in self._blocks})
        taken = chosen(self._blocks, left)
        return {name: self._stored(name, count) for name, count in taken.items()}

    def _make(self) -> Steps[None]:
        if self._blocks:
            return
        moments = yield from self.subject.moments()
        for name, weight in self.subject.weights.items():
            gradients = self.subject.gradients[name].root().matrix()
            self._scales[name] = column_scale(moments[name])
            self._blocks[name] = blocks(weight, moments[name], gradients, self.rank, _ROUNDS)
            yield Progress(f"BitStack, rank {self.rank}", len(self._blocks), len(self.subject.weights))

    def _stored(self, name: str, count: int) -> Stored:
        scale, taken = self._scales[name], self._blocks[name][:count]
        matrix = sum((block.matrix() for block in taken), torch.zeros_like(self.subject.weights[name]))
        tensors = {f"{t}.{part}": tensor for t, block in enumerate(taken) for part, tensor in block.tensors.items()}
        return Stored({"scale": scale, **tensors}, matrix / scale.float())


def column_scale(moment: torch.Tensor) -> torch.Tensor:
    """Root mean square of each column of the input, float16 (n,)."""
    root = moment.diagonal().sqrt()
    return root.clamp_min(1e-3 * float(root.mean()) + 1e-6).half()


@torch.no_grad()
def blocks(weight: torch.Tensor, moment: torch.Tensor, gradients: torch.Tensor, rank: int, rounds: int) -> list[Block]:
    """The rounds of a matrix (m, n), the first one first.

    Args:
        moment: C (n, n); gradients: G (m, m).
    """
    scale = column_scale(moment).float()
    residual, found = weight.float() * scale, []
    loss = predicted_loss(residual / scale, moment, gradients)
    for _ in range(rounds):
        signs, (u, v) = pack(residual >= 0, 1), low_rank(residual.abs(), rank)
        residual = residual - signed(signs, u, v)
        after = predicted_loss(residual / scale, moment, gradients)
        found.append(Block(signs, u, v, loss - after))
        loss = after
    return found


def low_rank(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Its best approximation u v of a rank by subspace iteration, float16 (m, rank) and (rank, n)."""
    width = min(rank + _OVERSAMPLED, *matrix.shape)
    start = torch.randn(matrix.shape[1], width, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(matrix @ start)[0]
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(matrix @ (matrix.T @ basis))[0]
    u, values, v = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return (basis @ u[:, :rank]).half(), (values[:rank, None] * v[:rank]).half()


def signed(signs: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """sign ∘ (u v), float32 (m, n)."""
    return (2 * unpack(signs, 1, (len(u), v.shape[1])).float() - 1) * (u.float() @ v.float())


def predicted_loss(error: torch.Tensor, moment: torch.Tensor, gradients: torch.Tensor) -> float:
    """tr(G D C Dᵀ), the predicted rise of the loss in nats per token."""
    return float(((gradients @ error @ moment) * error).sum())


def chosen(of_layers: dict[str, Sequence[Block]], size: float) -> dict[str, int]:
    """How many rounds of each layer: those that take away most per byte first, none before the one it builds on."""
    order = []
    for name, stack in of_layers.items():
        least = float("inf")
        for block in stack:
            least = min(least, block.gain / block.bytes)
            order.append((least, name, block.bytes))
    counts, left = dict.fromkeys(of_layers, 0), size
    for _, name, cost in sorted(order, key=lambda entry: -entry[0]):
        if cost > left:
            break
        counts[name], left = counts[name] + 1, left - cost
    return counts
