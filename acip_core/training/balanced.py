"""Factors in training, whatever their parameters are; and all their entries as parameters, float32 and balanced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from ..model.layers import ElasticLinear
from ..model.trained_factors import FactorUpdate, Ternary, signs_and_scale

FactorPair = tuple[torch.Tensor, torch.Tensor]  # down (K, in_features) and up (K, out_features), float32


class FactorsInTraining(ABC):
    """What some elastic layers run while it is trained; their own factors stay as they are.

    Attributes:
        own: down and up of every layer.
        parameters: what is trained.
        running: what the layers run, leaves that take gradients.
    """

    own: dict[str, FactorPair]
    parameters: list[torch.Tensor]
    running: dict[str, FactorPair]

    def __init__(self, layers: Mapping[str, ElasticLinear]):
        self.layers = layers
        self.own = {name: (layer.down, layer.up) for name, layer in layers.items()}

    @abstractmethod
    def round(self) -> None:
        """Have the layers run what the parameters are now."""

    @abstractmethod
    def pass_gradients(self) -> None:
        """Give the gradients of what the layers ran to the parameters."""

    @abstractmethod
    def begun_from(self) -> Iterable[torch.Tensor]:
        """Numbers that tell one start from another."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The layers run these factors within the block, then their own."""
        for name, layer in self.layers.items():
            layer.down, layer.up = self.running[name]
        try:
            yield
        finally:
            for name, layer in self.layers.items():
                layer.down, layer.up = self.own[name]

    def adam(self, learning_rate: float) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        fused = self.parameters[0].device.type == "cuda"
        return torch.optim.Adam(self.parameters, learning_rate, betas=(0.9, 0.98), fused=fused)


class BalancedFactors(FactorsInTraining):
    """All entries as parameters, rows as long on both sides, so that one learning rate serves both.

    Attributes:
        trained: by layer, `down` times a scale for each row and `up` divided by it; their product is the factors'.
        running: the parameters, or what is kept of them.

    Args:
        start: factors to start from; the layers' own by default.
        rounded: whether the layers run what `updates_of` keeps of the parameters. Its gradient moves the parameters
            (straight through the rounding), so training ends with the very factors that are kept.
    """

    def __init__(
        self,
        layers: Mapping[str, ElasticLinear],
        start: Mapping[str, FactorPair] | None = None,
        rounded: bool = False,
    ):
        super().__init__(layers)
        begun = {
            name: tuple(s.float().to(self.own[name][0].device) for s in (start or self.own)[name]) for name in layers
        }
        self.scales = {name: _balance(down, up) for name, (down, up) in begun.items()}
        self.trained = {
            name: ((down * self.scales[name]).requires_grad_(), (up / self.scales[name]).requires_grad_())
            for name, (down, up) in begun.items()
        }
        self.parameters = [side for sides in self.trained.values() for side in sides]
        self.running = self.trained
        if rounded:
            self.running = {
                name: (down.detach().clone().requires_grad_(), up.detach().clone().requires_grad_())
                for name, (down, up) in self.trained.items()
            }

    @torch.no_grad()
    def round(self) -> None:
        if self.running is self.trained:
            return
        for name, sides in self.trained.items():
            (down, up), scale = self.own[name], self.scales[name]
            for kept, side, own in zip(self.running[name], sides, (down * scale, up / scale), strict=True):
                signs, lengths = signs_and_scale(side - own)
                kept.copy_(own + signs * lengths[:, None])

    def pass_gradients(self) -> None:
        if self.running is self.trained:
            return
        for name, sides in self.trained.items():
            for side, kept in zip(sides, self.running[name], strict=True):
                side.grad, kept.grad = kept.grad, None

    def begun_from(self) -> Iterable[torch.Tensor]:
        return (up.detach()[:, :8] for _, up in self.trained.values())

    def factors(self) -> dict[str, FactorPair]:
        """The factors as they are now, on the layers' own scale."""
        return {
            name: (down.detach() / self.scales[name], up.detach() * self.scales[name])
            for name, (down, up) in self.trained.items()
        }


def updates_of(layers: Mapping[str, ElasticLinear], factors: Mapping[str, FactorPair]) -> dict[str, FactorUpdate]:
    """What makes the layers' own factors into these, as it is kept."""
    result = {}
    for name, layer in layers.items():
        down, up = (side.to(layer.down.device) for side in factors[name])
        result[name] = FactorUpdate(Ternary.of(down - layer.down), Ternary.of(up - layer.up))
    return result


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within the block no parameter of the model has a gradient."""
    trainable = {p: p.requires_grad for p in model.parameters()}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


def _balance(down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """(K, 1), what rows of `down` are to be multiplied with, and those of `up` divided by, to be as long."""
    lengths = [side.norm(dim=1, keepdim=True).clamp_min(1e-20) for side in (up, down)]
    return (lengths[0] / lengths[1]).sqrt()
