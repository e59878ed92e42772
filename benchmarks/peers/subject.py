"""The model that all peers quantize, the second moments they share, and how it runs with their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from acip_core.data.corpus import corpus_windows
from acip_core.model.base_model import BaseModel
from acip_core.model.second_moments import Basis
from acip_core.model.target_layers import named_layers
from acip_core.progress import Progress, Steps

from .stored import Stored, eight_bits

CORPORA, LENGTH, CALIBRATION = ("c4", "wikipedia"), 512, 32  # tokens a window; windows of each corpus for moments
_NORM_BYTES = 2  # of each number that nobody quantizes: bfloat16, as published


@dataclass(frozen=True)
class Peer:
    """One size of one method.

    Attributes:
        method: its id in `evaluation.methods`.
        setting: for people, what makes it this size.
        make: the quantized target layers by name; tables too where the method quantizes them below 8 bits.
    """

    method: str
    setting: str
    make: Callable[[], Steps[dict[str, Stored]]]


class Subject:
    """A base model with the names of its target layers.

    Attributes:
        base: its weights change within `holding` alone.
        weights: of the target layers, copies in float32 (m, n) by name.
        tables: embedding and head in 8 bits by name, a tied one once.
        gradients: second moments of the loss's gradients by the layers' outputs, as the artifact holds them.
        source, artifact: what model and artifact were loaded from, as `open_model`.
    """

    def __init__(self, base: BaseModel, gradients: Basis, source: str | None = None, artifact: Path | None = None):
        self.base, self.gradients, self.source, self.artifact = base, gradients, source, artifact
        self.modules: dict[str, nn.Linear] = dict(named_layers(base.model, gradients))
        self.weights = {name: layer.weight.detach().float().clone() for name, layer in self.modules.items()}
        self._tables = _tables(base.model)
        self.tables = {name: eight_bits(module.weight.detach()) for name, module in self._tables.items()}
        self._moments: dict[str, torch.Tensor] = {}

    def table(self, name: str) -> torch.Tensor:
        """The weight (tokens, n) of an embedding or a head as published."""
        return self._tables[name].weight.detach().float()

    def moments(self) -> Steps[dict[str, torch.Tensor]]:
        """C = E[x xᵀ] (n, n) of what every target layer reads, of calibration text; measured when first asked for."""
        if not self._moments:
            of_each = (corpus_windows(self.base.tokenizer, c, "calibration", LENGTH)[:CALIBRATION] for c in CORPORA)
            self._moments = yield from second_moments(self.base.model, self.modules, torch.cat(list(of_each)))
        return self._moments

    def bytes(self, stored: Mapping[str, Stored]) -> int:
        """Of the whole model: what is stored, tables in 8 bits where they are not among it, all else in 16."""
        quantized = {**self.tables, **stored}
        matrices = {id(module.weight) for module in (*self.modules.values(), *self._tables.values())}
        rest = sum(p.numel() for p in self.base.model.parameters() if id(p) not in matrices)
        return sum(matrix.bytes for matrix in quantized.values()) + rest * _NORM_BYTES

    @contextmanager
    def holding(self, stored: Mapping[str, Stored]) -> Iterator[None]:
        """The model runs with these matrices within the block."""
        modules = {**self.modules, **self._tables}
        before = {name: modules[name].weight.detach().clone() for name in stored}
        try:
            for name, matrix in stored.items():
                modules[name].weight.data.copy_(matrix.matrix)
            yield
        finally:
            for name, weight in before.items():
                modules[name].weight.data.copy_(weight)


def by_layer(subject: Subject, label: str, quantize: Callable[[str, torch.Tensor], Stored]) -> Steps[dict[str, Stored]]:
    """Every target layer quantized on its own."""
    stored = {}
    for name, weight in subject.weights.items():
        stored[name] = quantize(name, weight)
        yield Progress(label, len(stored), len(subject.weights))
    return stored


def _tables(model: nn.Module) -> dict[str, nn.Module]:
    found, names = {}, {id(module): name for name, module in model.named_modules()}
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):  # type: ignore[operator]
        if module is not None and all(module.weight is not other.weight for other in found.values()):
            found[names[id(module)]] = module
    return found


@torch.no_grad()
def second_moments(
    model: nn.Module, modules: Mapping[str, nn.Linear], windows: torch.Tensor
) -> Steps[dict[str, torch.Tensor]]:
    """E[x xᵀ] of what each layer reads; layers that read the same tensor in a row share one.

    Args:
        windows: (windows, length) token ids.
    """
    sums: list[torch.Tensor] = []
    group_of: dict[str, int] = {}
    latest: list[tuple[torch.Tensor, int]] = []

    def hook(name: str) -> Callable[..., None]:
        def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if latest and latest[0][0] is inputs[0]:
                group_of[name] = latest[0][1]
                return
            flat = inputs[0].flatten(0, -2).float()
            if name not in group_of:
                group_of[name] = len(sums)
                sums.append(torch.zeros(flat.shape[1], flat.shape[1]))
            sums[group_of[name]].addmm_(flat.T, flat)
            latest[:] = [(inputs[0], group_of[name])]

        return add

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in modules.items()]
    try:
        for index, window in enumerate(windows):
            with torch.inference_mode():
                model(window[None], use_cache=False, logits_to_keep=1)
            yield Progress("second moments", index + 1, len(windows))
    finally:
        for handle in hooks:
            handle.remove()
    return {name: sums[group] / windows.numel() for name, group in group_of.items()}
