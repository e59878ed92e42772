"""What codes are made with: second moments of what every layer reads, and of the loss's gradients by its output.

    C = E[x xᵀ],   G = E[g gᵀ],   g = ∂/∂y Σ_t −log p(label_t),   labels drawn from the model itself

so that G is the true Fisher information (one pass forth and back over calibration text), and tr(G D C Dᵀ) the predicted
rise of the loss when a weight is off by D. For the embedding and the head, which have a row for each token, one moment
of rows and a weight for each token: how often it is read, or how likely it is to be said.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from ..progress import Progress, Steps
from ..storage.resumable import PartialStep, ResumableRun
from ..storage.verified import read_tensors, save_tensors
from .coded_modeling import embedding_scale
from .second_moments import GRADIENT, Basis, SecondMoment, compress_moment
from .target_layers import named_layers

INPUT_RANK, GRADIENT_RANK = 256, 32
_RARE = 0.5  # of the average token's weight, what one that was never seen has


@dataclass(frozen=True)
class TableMoment:
    """Of an embedding, a head, or both where they are one matrix.

    Attributes:
        rows: moment of what a row is multiplied with.
        weights: (tokens,) how often it is, per token of text.
    """

    rows: SecondMoment
    weights: torch.Tensor


@dataclass(frozen=True)
class CodingMoments:
    """By layer name, inputs and gradients; by the name of its module, each table (a tied one once)."""

    inputs: Basis
    gradients: Basis
    tables: dict[str, TableMoment]


def measure_coding_moments(
    model: Any,
    windows: torch.Tensor,
    layers: Collection[str],
    basis: Basis,
    seed: int = 0,
    gradients: Basis | None = None,
    partial: ResumableRun = ResumableRun(None),
) -> Steps[CodingMoments]:
    """Run calibration text through the model and back.

    Args:
        windows: (windows, length) token ids.
        layers: names of the target layers.
        basis, gradients: moments that are there already; those of inputs, where they were measured, and of gradients
            are taken over.
        partial: a run of these windows, which keeps the sums so far, as large as the model's weights or more where
            gradients are measured; another call goes on with them, to the same bits. To be removed afterwards.

    Raises:
        ModelError: a prediction or a gradient is not finite.
        StorageError: the sums cannot be kept.
    """
    kept = PartialStep(partial, "sums")
    done, sums = kept.read()
    collector = _Collector(model, layers, basis, gradients is None)
    collector.add(sums)
    trainable = {p: p.requires_grad for p in model.parameters()}
    model.requires_grad_(False)
    try:
        for index, window in enumerate(windows[done:], done):
            collector.run(window[None].to(model.device), seed * 1_000_003 + index)
            kept.keep(index + 1, collector.sums())
            yield Progress("gradient moments", index + 1, len(windows))
    finally:
        collector.close()
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
    return (yield from collector.moments(windows.numel(), gradients))


class _Collector:
    """Sums of outer products, through hooks.

    Args:
        of_outputs: whether gradients are measured by the layers' outputs, and not by the embedding's alone.
    """

    def __init__(self, model: Any, layers: Collection[str], basis: Basis, of_outputs: bool):
        self.model, self.basis, self.targets, self.of_outputs = model, basis, named_layers(model, layers), of_outputs
        self.inputs: dict[str, torch.Tensor] = {}
        self.gradients: dict[str, torch.Tensor] = {}
        self.embedding, self.head = model.get_input_embeddings(), model.get_output_embeddings()
        vocabulary = self.embedding.weight.shape[0]
        self.read, self.said = torch.zeros(vocabulary), torch.zeros(vocabulary)
        self.hooks = [layer.register_forward_hook(self._hook(name)) for name, layer in self.targets.items()]
        self.hooks.append(self.embedding.register_forward_hook(self._embedded))
        if self.head is not None:
            self.hooks.append(self.head.register_forward_pre_hook(self._headed))

    def _hook(self, name: str):
        needs_input = not _serves(self.basis[name])

        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if needs_input:
                add_moment(self.inputs, name, inputs[0].detach())
            if self.of_outputs:
                output.register_hook(lambda gradient: add_moment(self.gradients, name, gradient))

        return hook

    def _embedded(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        leaf = output.detach().requires_grad_(True)
        leaf.register_hook(lambda gradient: add_moment(self.gradients, "", gradient))
        return leaf

    def _headed(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        add_moment(self.inputs, "", inputs[0].detach())

    def run(self, ids: torch.Tensor, seed: int) -> None:
        with torch.enable_grad():
            logits = self.model(ids, use_cache=False).logits[0].float()
            loss, p = sampled_loss(logits, seed)
            loss.backward()
        self.said += p.sum(0)[: len(self.said)]
        self.read += torch.bincount(ids[0].cpu(), minlength=len(self.read))

    def sums(self) -> dict[str, torch.Tensor]:
        """All of them, by names of their own."""
        of_both = {"inputs": self.inputs, "gradients": self.gradients}
        named = {f"{side}.{name}": total for side, totals in of_both.items() for name, total in totals.items()}
        return named | {"read": self.read, "said": self.said}

    def add(self, sums: dict[str, torch.Tensor]) -> None:
        """Go on with those that `sums` returned."""
        for key, total in sums.items():
            side, _, name = key.partition(".")
            if side in ("read", "said"):
                getattr(self, side).add_(total)
            else:
                getattr(self, side)[name] = total.to(self.model.device, copy=True)  # aligned as those made here

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def moments(self, tokens: int, have_gradients: Basis | None) -> Steps[CodingMoments]:
        """What was summed up, per token and compressed."""
        damaged = [name for name, total in self.gradients.items() if not total.isfinite().all()]
        if damaged:
            raise ModelError(f"The gradients of {damaged[0] or 'the embedding'} are not finite; the model is damaged.")
        missing = [name for name in self.targets if name not in self.gradients]
        if missing and self.of_outputs:
            raise ModelError(f"No gradient reaches the layer {missing[0]}; leave it out with --exclude.")
        inputs: Basis = {}
        gradients: Basis = {}
        for index, name in enumerate(self.targets):
            have = self.basis[name]
            inputs[name] = have if _serves(have) else _compressed(name, "input", self.inputs[name] / tokens, INPUT_RANK)
            gradients[name] = (
                have_gradients[name]
                if have_gradients is not None
                else _compressed(name, GRADIENT, self.gradients[name] / tokens, GRADIENT_RANK)
            )
            yield Progress("compressing moments", index + 1, len(self.targets))
        return CodingMoments(inputs, gradients, self._tables(tokens))

    def _tables(self, tokens: int) -> dict[str, TableMoment]:
        names = {id(module): name for name, module in self.model.named_modules()}
        read, said, least = self.read / tokens, self.said / tokens, _RARE / len(self.read)
        scale = embedding_scale(self.embedding)  # of the output, whose gradient it is, over the row
        embedding, gradient = names[id(self.embedding)], self.gradients[""] * (scale**2 / tokens)
        if self.head is None or "" not in self.inputs:
            return {}
        head, heard = names[id(self.head)], self.inputs[""] / tokens
        if self.head.weight is self.embedding.weight:
            rows = _compressed(embedding, "input", gradient + heard, INPUT_RANK)
            return {embedding: TableMoment(rows, torch.maximum(read, said) + least)}
        return {
            embedding: TableMoment(_compressed(embedding, "input", gradient, INPUT_RANK), read + least),
            head: TableMoment(_compressed(head, "input", heard, INPUT_RANK), said + least),
        }


def _serves(moment: SecondMoment) -> bool:
    """Whether it is one of inputs, and not the unit moment of a plain SVD."""
    return moment.side == "input" and len(moment.columns) > 0


def sampled_loss(logits: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss of labels drawn from logits (tokens, vocabulary) themselves, and the probabilities on the CPU."""
    p = logits.detach().softmax(-1).cpu()
    if not p.isfinite().all():
        raise ModelError("The model's predictions are not finite; the model is damaged.")
    labels = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    return torch.nn.functional.cross_entropy(logits, labels.to(logits.device), reduction="sum"), p


def add_moment(sums: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> None:
    """Add the outer products of x (..., channels) to the sum of that name."""
    flat = x.flatten(0, -2).float()  # (tokens, channels)
    if name not in sums:
        sums[name] = torch.zeros(flat.shape[1], flat.shape[1], device=flat.device)
    sums[name].addmm_(flat.T, flat)


def _compressed(name: str, side: str, matrix: torch.Tensor, rank: int) -> SecondMoment:
    return compress_moment((name,), side, matrix, rank)


def save_coding_moments(moments: CodingMoments, path: Path, basis: Basis, gradients: Basis | None = None) -> None:
    """Write `coding.safetensors`: what the artifact's basis, one-sided or two-sided, does not hold."""
    tensors: dict[str, torch.Tensor] = {}

    def put(key: str, moment: SecondMoment) -> None:
        parts = {"scale": moment.scale, "factor": moment.factor, "columns": moment.columns}
        tensors.update({f"{key}.{part}": tensor for part, tensor in parts.items()})

    own = [name for name in moments.inputs if not _serves(basis[name])]
    for name in own:
        put(f"{name}.inputs", moments.inputs[name])
    for name, moment in moments.gradients.items() if gradients is None else ():
        put(f"{name}.gradients", moment)
    for name, table in moments.tables.items():
        put(f"{name}.table", table.rows)
        tensors[f"{name}.table.weights"] = table.weights.float()
    save_tensors(tensors, path, {"inputs": json.dumps(own), "tables": json.dumps(list(moments.tables))})


def read_coding_moments(path: Path, basis: Basis, gradients: Basis | None = None) -> CodingMoments:
    """Read what `save_coding_moments` wrote, beside the basis of the same artifact.

    Raises:
        One of `verified.DAMAGE`: not such a file, or one of other layers.
    """
    tensors, metadata = read_tensors(path)

    def take(key: str, layer: str, side: str) -> SecondMoment:
        scale, factor, columns = (tensors[f"{key}.{part}"] for part in ("scale", "factor", "columns"))
        if factor.dtype != torch.int8 or factor.shape != (*scale.shape, *columns.shape):
            raise ValueError(f"the moment '{key}' is malformed")
        if not (scale.isfinite().all() and columns.isfinite().all()):
            raise ValueError(f"the moment '{key}' is not finite")
        return SecondMoment((layer,), side, scale, factor, columns)

    own = set(json.loads(metadata["inputs"]))
    inputs = {name: take(f"{name}.inputs", name, "input") if name in own else moment for name, moment in basis.items()}
    if any(moment.side != "input" for moment in inputs.values()):
        raise ValueError("the moments of some layers' inputs are missing")
    if gradients is None:
        gradients = {name: take(f"{name}.gradients", name, GRADIENT) for name in basis}
    tables = {}
    for name in json.loads(metadata["tables"]):
        weights = tensors[f"{name}.table.weights"]
        if weights.ndim != 1 or not (weights.isfinite().all() and (weights > 0).all()):
            raise ValueError(f"the weights of the tokens of '{name}' are malformed")
        tables[name] = TableMoment(take(f"{name}.table", name, "input"), weights)
    return CodingMoments(inputs, gradients, tables)
