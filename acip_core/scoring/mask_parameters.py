"""The mask parameters of a pruning run: one flat vector over the whole model, and the scores they end in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..errors import ModelError
from .pruning_config import PruningConfig

_SAMPLE = 256  # directions whose masks are recorded at every step,
_SAMPLED_LAYERS = 8  # of so many layers, so that each of them shows how it shrinks


class Masks:
    """The mask parameters of a whole model: one flat vector, which directions are pruned, and the size that is left.

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
        """Prune the directions with p ≤ 0 after `step`; returns the layers that lost directions."""
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


def initial_masks(settings: PruningConfig, count: int, warm: torch.Tensor | None) -> torch.Tensor:
    """(count,) initial masks: all alike, or spread evenly in the order of the warm scores."""
    values = torch.full((count,), settings.mask)
    if settings.warm_start == 0:
        return values
    if warm is None:
        raise ModelError("A warm start needs a score map to start from.")
    position = torch.empty(count)
    position[warm.argsort(stable=True)] = torch.linspace(-1, 1, count)
    return values * (1 + settings.warm_start * position)


def sampled_directions(layers: Sequence[slice]) -> torch.Tensor:
    """Indices of directions spread evenly over layers that are spread evenly over the model."""
    chosen = _spread(len(layers), _SAMPLED_LAYERS)
    each = _SAMPLE // max(1, len(chosen))
    parts = [layers[i].start + _spread(layers[i].stop - layers[i].start, each) for i in chosen.tolist()]
    return torch.cat(parts)


def _spread(count: int, most: int) -> torch.Tensor:
    return torch.linspace(0, count - 1, min(count, most)).round().long()
