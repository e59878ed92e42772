"""The mask parameters of a pruning run: one flat vector over the whole model, and the scores they end in."""

from __future__ import annotations

import torch
from torch import nn


class Masks:
    """The mask parameters of a whole model: one flat vector, what is pruned of it, and the size that is left.

    Attributes:
        values: (directions,) parameter p of every direction, layer after layer.
        pruned_at: (directions,) the step after which a direction was pruned, −1 while it is left.
    """

    def __init__(self, shapes: list[tuple[int, int]], initial: torch.Tensor):
        ranks = [min(shape) for shape in shapes]
        self.values = nn.Parameter(initial.clone())
        self.pruned_at = torch.full((len(initial),), -1, dtype=torch.int32, device=initial.device)
        self.slices = [slice(end - rank, end) for rank, end in zip(ranks, _sums(ranks), strict=True)]
        layers = torch.arange(len(ranks)).repeat_interleave(torch.tensor(ranks))
        self.layer = layers.to(initial.device)
        self.left = torch.tensor(ranks)
        self._row = torch.tensor([m + n for m, n in shapes])
        self._dense = torch.tensor([m * n for m, n in shapes])
        self.size = 1.0

    def prune(self, step: int) -> list[int]:
        """Prune what has reached p ≤ 0 by `step`; returns the layers that lost directions."""
        new = ((self.values.detach() <= 0) & (self.pruned_at < 0)).nonzero().squeeze(1)
        if not len(new):
            return []
        self.pruned_at[new] = step
        self.left -= torch.bincount(self.layer[new], minlength=len(self.left)).cpu()
        self._recount()
        return self.layer[new].unique().tolist()

    def restore(self, pruned_at: torch.Tensor) -> None:
        """Take over what was pruned in an interrupted run."""
        self.pruned_at.copy_(pruned_at)
        self.left = torch.bincount(self.layer[self.pruned_at < 0], minlength=len(self.left)).cpu()
        self._recount()

    def _recount(self) -> None:
        parameters = torch.minimum(self.left * self._row, self._dense).sum()
        self.size = (parameters / self._dense.sum()).item()

    def share_to_prune(self, ratio: float) -> float:
        """Roughly the share of all directions that are pruned at a size ratio."""
        return 1 - ratio * (self._dense / self._row).sum().item() / len(self.values)

    def scores(self, step: int) -> torch.Tensor:
        """Algorithm 1 after `step` steps: p, less one for every step since a direction was pruned."""
        since = torch.where(self.pruned_at < 0, 0, step - self.pruned_at)
        return (self.values.detach() - since).float().cpu()


def _sums(numbers: list[int]) -> list[int]:
    return torch.tensor(numbers).cumsum(0).tolist()
