"""AA-SVD (arXiv 2604.02119): one size, cut block by block, each block refined on what the cut ones before it hand over.

With X a layer's inputs in the full model and X' those in the model cut so far, its weight becomes

    W' = argmin ‖W X − W' X'‖ of rank k,    W' = [W X X'ᵀ L⁻ᵀ]ₖ L⁻¹,    X' X'ᵀ = L Lᵀ

anchored to the full model's outputs, adapted to the cut one's inputs. The layers of a block are cut in the order in
which they run, those with a common input together; then AdamW moves all that the block stores, factors, biases and
norms, towards the full block's output. As published: all layers at one size ratio, 25 epochs, 200 steps a block. Where
this is not the paper's method: the learning rate falls to 0 instead of a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ModelError
from ..model.autocast import mixed_precision
from ..model.elastic_model import ElasticModel
from ..model.layers import ElasticLinear
from ..model.size_planner import DENSE, Plan
from ..model.target_layers import decoder_blocks
from ..progress import Progress, Steps
from .distillation import one_cycle

_DAMPING = 1e-8  # of the mean of the diagonal of X' X'ᵀ, for texts of fewer tokens than channels


@dataclass(frozen=True)
class AaSvdConfig:
    """How blocks are refined.

    Attributes:
        epochs: times that every block reads the text.
        batch: windows per step, at most: a text is split into equal batches.
        learning_rate: peak of a one-cycle cosine schedule.
    """

    epochs: int = 25
    batch: int = 15
    learning_rate: float = 1e-4


def aa_svd(
    elastic: ElasticModel, plan: Plan, windows: torch.Tensor, settings: AaSvdConfig = AaSvdConfig()
) -> Steps[None]:
    """Cut an elastic model without adapters to one plan; no other size of it is of use afterwards.

    It computes in float32 from then on: norms move in steps too small for less.

    Args:
        plan: whose ranks the layers get.
        windows: (windows, length) calibration token ids, for the closed form and for all epochs.

    Raises:
        ModelError: the output of a block or what a layer reads is not finite.
    """
    run = _Run(elastic, plan, windows, settings)
    total = len(run.blocks) * (settings.epochs + 1)
    for index in range(len(run.blocks)):
        for epoch, error in enumerate(run.cut(index)):
            if not math.isfinite(error):
                raise ModelError(f"The output of block {index} is not finite; lower the learning rate.")
            done = index * (settings.epochs + 1) + epoch + 1
            yield Progress(f"AA-SVD at {plan.ratio:.0%}", done, total, f"block {index}: squared error {error:.3g}")


@torch.no_grad()
def anchored_factors(
    weight: torch.Tensor, moment: torch.Tensor, cross: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors (rank, n) and (rank, m) of the W' of a rank that minimizes ‖W X − W' X'‖, rows as long on both sides.

    Args:
        weight: W (m, n).
        moment: X' X'ᵀ (n, n), double precision.
        cross: X X'ᵀ (n, n), likewise.
    """
    root = torch.linalg.cholesky(moment + torch.eye(len(moment)).to(moment) * _DAMPING * moment.diagonal().mean())
    images = torch.linalg.solve_triangular(root, (weight.double() @ cross).T, upper=False).T  # (m, n)
    tall = len(images) > images.shape[1]
    energies, vectors = torch.linalg.eigh(images.T @ images if tall else images @ images.T)
    vectors = vectors.flip(1)[:, :rank].T  # (rank, n) or (rank, m)
    values = energies.flip(0)[:rank, None].clamp_min(1e-30).sqrt()  # (rank, 1)
    left, right = (vectors @ images.T / values, vectors) if tall else (vectors, vectors @ images / values)
    down = torch.linalg.solve_triangular(root.T, (right * values.sqrt()).T, upper=True).T
    return down.float().contiguous(), (left * values.sqrt()).float().contiguous()


class _Run:
    """The blocks cut so far, and both models' hidden states in front of the next one.

    Attributes:
        full, cut_off: hidden states (batch, length, width) of every batch of windows in the full and the cut model.
        ranks: the state of every layer so far.
    """

    def __init__(self, elastic: ElasticModel, plan: Plan, windows: torch.Tensor, settings: AaSvdConfig):
        self.elastic, self.settings = elastic, settings
        self.model = elastic.model.float().requires_grad_(False)
        self.blocks = decoder_blocks(self.model)[1]
        self.layers = elastic.elastic_layers()
        self.wanted = dict(zip(self.layers, plan.ranks, strict=True))
        self.dense = (DENSE,) * len(self.layers)
        self.ranks = self.dense
        size = max(size for size in range(1, settings.batch + 1) if len(windows) % size == 0)
        self.calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.full = self.cut_off = self._embedded(windows.split(size))

    @torch.no_grad()
    def _embedded(self, batches: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """What the first block reads; keeps what the model calls every block with besides."""
        states: list[torch.Tensor] = []

        def keep(block: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            index = indices[block]
            self.calls[index] = inputs[1:], options
            if index == 0:
                states.append(inputs[0].float())

        indices = {block: index for index, block in enumerate(self.blocks)}
        hooks = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in self.blocks]
        try:
            for ids in batches:
                with mixed_precision(self.model.device), self.elastic.cut.on_this_thread(self.dense):
                    self.model(ids.to(self.model.device), use_cache=False, logits_to_keep=1)
        finally:
            for hook in hooks:
                hook.remove()
        return states

    def cut(self, index: int) -> Iterator[float]:
        """Cut a block and refine it; the mean squared error of its output before the first and in every epoch."""
        with torch.no_grad():
            targets = [self._output(index, states, self.dense) for states in self.full]
            for names in self._groups(index):
                moment, cross = self._moments(index, names[0])
                for name in names:
                    self._factorize(name, moment, cross)
            errors = [
                F.mse_loss(self._output(index, states, self.ranks), target).item()
                for states, target in zip(self.cut_off, targets, strict=True)
            ]
        yield sum(errors) / len(errors)
        yield from self._refine(index, targets)
        self.full = targets
        with torch.no_grad():
            self.cut_off = [self._output(index, states, self.ranks) for states in self.cut_off]

    def _output(self, index: int, states: torch.Tensor, ranks: tuple[int, ...]) -> torch.Tensor:
        inputs, options = self.calls[index]
        with mixed_precision(states.device), self.elastic.cut.on_this_thread(ranks):
            output = self.blocks[index](states, *inputs, **options)
        return (output[0] if isinstance(output, tuple) else output).float()

    def _inside(self, index: int) -> dict[str, ElasticLinear]:
        """The layers of a block that are to be cut."""
        inside = set(self.blocks[index].modules())
        return {name: layer for name, layer in self.layers.items() if layer in inside and self.wanted[name] != DENSE}

    def _groups(self, index: int) -> list[list[str]]:
        """These in the order in which they run, those that read the same input together."""
        groups: list[tuple[torch.Tensor, list[str]]] = []

        def keep(name: str, x: torch.Tensor) -> None:
            if not groups or groups[-1][0] is not x:
                groups.append((x, []))
            groups[-1][1].append(name)

        with _inputs(self._inside(index), keep):
            self._output(index, self.full[0], self.dense)
        return [names for _, names in groups]

    def _moments(self, index: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """X' X'ᵀ and X X'ᵀ (n, n) of a layer, in double precision: a few channels are far larger than the others."""
        read: list[torch.Tensor] = []
        width = self.layers[name].in_features
        moment, cross = torch.zeros(2, width, width, dtype=torch.float64, device=self.model.device)
        with _inputs({name: self.layers[name]}, lambda _, x: read.append(x.flatten(0, -2).double())):
            for states, cut_off in zip(self.full, self.cut_off, strict=True):
                self._output(index, states, self.dense)
                self._output(index, cut_off, self.ranks)
                full, cut = read  # (tokens, n)
                moment.addmm_(cut.T, cut)
                cross.addmm_(full.T, cut)
                read.clear()
        return moment, cross

    def _factorize(self, name: str, moment: torch.Tensor, cross: torch.Tensor) -> None:
        layer, rank = self.layers[name], self.wanted[name]
        try:
            layer.down, layer.up = anchored_factors(layer.weight, moment, cross, rank)
        except torch.linalg.LinAlgError:
            raise ModelError(f"Cannot cut {name}: what it reads is not finite, or always zero.") from None
        self.ranks = tuple(rank if i == layer.index else other for i, other in enumerate(self.ranks))

    def _refine(self, index: int, targets: list[torch.Tensor]) -> Iterator[float]:
        """Train all that a block stores; the mean squared error in every epoch."""
        s, layers = self.settings, self._inside(index).values()
        weights = {id(layer.weight) for layer in self.layers.values()}
        rest = [p for p in self.blocks[index].parameters() if id(p) not in weights]
        parameters = [side for layer in layers for side in (layer.down, layer.up)] + rest
        if not layers:
            return
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(parameters, s.learning_rate, fused=self.model.device.type == "cuda")
        steps = s.epochs * len(targets)
        for epoch in range(s.epochs):
            total = torch.zeros((), device=self.model.device)
            for place, (states, target) in enumerate(zip(self.cut_off, targets, strict=True)):
                for group in optimizer.param_groups:
                    group["lr"] = s.learning_rate * one_cycle(epoch * len(targets) + place, steps)
                loss = F.mse_loss(self._output(index, states, self.ranks), target)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                total += loss.detach()
            yield total.item() / len(targets)
        for parameter in parameters:
            parameter.requires_grad_(False)


@contextmanager
def _inputs(layers: Mapping[str, nn.Module], keep: Callable[[str, torch.Tensor], object]) -> Iterator[None]:
    """Within the block, `keep(name, x)` is called with what every layer reads."""
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0]))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
