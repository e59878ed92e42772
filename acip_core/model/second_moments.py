"""Second moments of activations, compressed for the artifact; they fix the basis of every factorization.

For each group of layers that read the same input, the second moment `C = E[x xᵀ]` of that input; for a lone layer
whose output is narrower than its input, the second moment of its output `E[y yᵀ] = W C Wᵀ` instead, which fixes the
same directions in less room. Stored as a per-channel scale and a rank-q correlation in int8 columns:

    C ≈ D^½ (P Pᵀ + diag(1 − rowsum P²)) D^½        P (channels, q)

Knows layer names and shapes only; nothing of scores or sizes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..errors import ModelError
from ..progress import Progress, Steps
from ..storage.verified import read_tensors, save_tensors
from .kernels import linear
from .target_layers import exclusions, named_layers, target_layers

DEFAULT_RANK = 256
GRADIENT = "gradient"
_WIDE = 2048  # channels from which on a few eigenvectors are looked for alone
_MORE, _ITERATIONS = 32, 6  # columns beside those that are wanted, and products
_RESIDUAL_FLOOR = 1e-3  # of a channel's variance: keeps every approximated moment positive definite


@dataclass(frozen=True)
class Root:
    """A second moment `C = columns columnsᵀ + diag(diagonal²)`.

    Attributes:
        columns: (channels, q).
        diagonal: (channels,).
    """

    columns: torch.Tensor
    diagonal: torch.Tensor

    def to(self, device: torch.device) -> Root:
        """The same on another device."""
        return Root(self.columns.to(device), self.diagonal.to(device))

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """`rows @ [columns, diag(diagonal)]`, (r, q + channels), whose Gram matrix is `rows C rowsᵀ`."""
        q = self.columns.shape[1]
        images = rows.new_empty(len(rows), q + len(self.diagonal))
        images[:, :q] = linear(rows, self.columns.T)
        torch.mul(rows, self.diagonal, out=images[:, q:])
        return images

    def product(self, columns: torch.Tensor) -> torch.Tensor:
        """`C @ columns`, (channels, r)."""
        return self.columns @ (self.columns.T @ columns) + self.diagonal.square()[:, None] * columns

    def matrix(self) -> torch.Tensor:
        """C itself, symmetric (channels, channels)."""
        return self.columns @ self.columns.T + self.diagonal.square().diag()


@dataclass(frozen=True)
class SecondMoment:
    """Second moment of the input or output shared by `layers`.

    Attributes:
        side: `input` (channels = in_features), `output` (channels = out_features, one layer), or `gradient` of the
            loss by the output (likewise).
        scale: (channels,) root of each channel's mean square.
        factor: int8 (channels, q), columns of P in units of `columns`.
        columns: (q,) largest absolute value of each column of P, divided by 127.
    """

    layers: tuple[str, ...]
    side: str
    scale: torch.Tensor
    factor: torch.Tensor
    columns: torch.Tensor

    def root(self, dtype: torch.dtype = torch.float32) -> Root:
        """The moment's exact square root; positive definite however few columns are kept."""
        scale = self.scale.to(dtype)
        p = self.factor.to(dtype) * self.columns.to(dtype)
        residual = (1 - p.square().sum(1)).clamp_min(_RESIDUAL_FLOOR)
        return Root(p * scale[:, None], residual.sqrt() * scale)

    def matrix(self, device: torch.device) -> torch.Tensor:
        """The moment itself (channels, channels) in double precision, the same on every machine."""
        scale = self.scale.to(device).double()
        p = self.factor.to(device).double() * self.columns.to(device).double()
        residual = (1 - p.square().sum(1)).clamp_min(_RESIDUAL_FLOOR)
        p = p * scale[:, None]
        return p @ p.T + (residual * scale.square()).diag()


Basis = dict[str, SecondMoment]  # by layer name; layers of one group share one SecondMoment


def measure_basis(
    model: nn.Module,
    windows: torch.Tensor,
    rank: int = DEFAULT_RANK,
    layers: Collection[str] | None = None,
    of_inputs: bool = False,
) -> Steps[Basis]:
    """Run calibration text through the model and keep the second moments of its target layers.

    Args:
        windows: (windows, length) token ids.
        rank: q, columns kept of each correlation (all channels where there are fewer).
        layers: names of the target layers; all there can be by default.
        of_inputs: keep the moment of every layer's input, which a two-sided basis needs.

    Returns:
        The basis, one moment per group of layers with a common input.

    Raises:
        ModelError: the model's activations are not finite, or a layer does not read every token.
    """
    collector = InputCollector(target_layers(model) if layers is None else named_layers(model, layers), of_inputs)
    try:
        with torch.no_grad():
            for index, window in enumerate(windows):
                model(window[None].to(model.device), use_cache=False, logits_to_keep=1)
                collector.end_of_pass(len(window))
                yield Progress("second moments", index + 1, len(windows))
    finally:
        collector.close()
    basis: Basis = {}
    groups = collector.moments()
    for index, (group, side, matrix) in enumerate(groups):
        moment = compress_moment(group, side, matrix, rank)
        basis |= dict.fromkeys(group, moment)
        yield Progress("compressing moments", index + 1, len(groups))
    return {name: basis[name] for name in collector.targets}


def plain_basis(weights: Mapping[str, torch.Tensor]) -> Basis:
    """Unit moments: every layer's factorization in this basis is its plain SVD."""
    return {name: diagonal_moment((name,), torch.ones(weight.shape[1])) for name, weight in weights.items()}


def diagonal_moment(layers: tuple[str, ...], scale: torch.Tensor) -> SecondMoment:
    """The second moment of inputs with independent channels of root mean square `scale` (channels,)."""
    return SecondMoment(layers, "input", scale, torch.zeros(len(scale), 0, dtype=torch.int8), torch.zeros(0))


def compress_moment(layers: tuple[str, ...], side: str, matrix: torch.Tensor, rank: int) -> SecondMoment:
    """The best rank-`rank` scaled form of a second moment (channels, channels)."""
    scale = matrix.diagonal().clamp_min(matrix.diagonal().mean() * 1e-6 + 1e-30).sqrt()
    values, vectors = _leading(matrix / scale[:, None] / scale, min(rank, len(matrix)))
    p = vectors * values.clamp_min(0).sqrt()
    columns = (p.abs().amax(0) / 127).clamp_min(1e-12)
    factor = (p / columns).round().to(torch.int8)
    return SecondMoment(layers, side, scale.float().cpu(), factor.contiguous().cpu(), columns.float().cpu())


def _leading(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest eigenvalues (rank,) of a symmetric matrix, descending, and their eigenvectors as columns.

    Of a wide matrix by subspace iteration with a few more columns (Halko et al., arXiv 0909.4061, algorithm 4.4): all
    its eigenvectors take longer than all else that is done with its layer.
    """
    if len(matrix) <= _WIDE or rank + _MORE > len(matrix) // 4:
        values, vectors = torch.linalg.eigh(matrix)
        return values[-rank:].flip(0), vectors[:, -rank:].flip(1)
    start = torch.randn(len(matrix), rank + _MORE, generator=torch.Generator().manual_seed(0))
    space = torch.linalg.qr(matrix @ start.to(matrix))[0]
    for _ in range(_ITERATIONS):
        space = torch.linalg.qr(matrix @ space)[0]
    values, turned = torch.linalg.eigh(space.T @ matrix @ space)
    return values[-rank:].flip(0), space @ turned[:, -rank:].flip(1)


class InputCollector:
    """Accumulates moments through forward hooks; layers called with the same tensor in a row form a group.

    A shared layer is called several times in a pass; its moment is that of all its inputs.
    """

    def __init__(self, targets: Mapping[str, nn.Linear], of_inputs: bool = False):
        self.targets, self.of_inputs = targets, of_inputs
        self.group_of: dict[str, int] = {}
        self.members: list[list[str]] = []
        self.sums: list[torch.Tensor] = []
        self.tokens: list[int] = []
        self.read: dict[str, set[int]] = {}  # in this pass: tokens by layer, one number for all calls
        self.current: torch.Tensor | None = None
        self.group = -1
        self.hooks = [layer.register_forward_hook(self._hook(name)) for name, layer in targets.items()]

    def _hook(self, name: str):
        def hook(layer: nn.Linear, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = inputs[0]
            if self.current is not x:
                self.current, self.group = x, self.group_of.get(name, len(self.sums))
                self._add_input(x)
            if name not in self.group_of:
                self.group_of[name] = self.group
                self.members[self.group].append(name)
            self.read.setdefault(name, set()).add(x.numel() // x.shape[-1])

        return hook

    def _add_input(self, x: torch.Tensor) -> None:
        flat = x.detach().flatten(0, -2).float()  # (tokens, channels)
        if self.group == len(self.sums):
            self.members.append([])
            self.tokens.append(0)
            self.sums.append(torch.zeros(flat.shape[1], flat.shape[1], device=flat.device))
        self.tokens[self.group] += len(flat)
        self.sums[self.group].addmm_(flat.T, flat)

    def end_of_pass(self, tokens: int) -> None:
        """Refuse layers that were not called, or with only a part of the tokens: their moments would be wrong."""
        partly = [name for name in self.targets if self.read.get(name, {0}) != {tokens}]
        if partly:
            whole = [name for name in self.targets if name not in partly]
            first, more = partly[0], f" (and {len(partly) - 1} more like it)" if len(partly) > 1 else ""
            way_out = f"leave such layers as they are with {exclusions(partly, whole)}" if whole else ""
            raise ModelError(
                f"The layer {first}{more} reads {min(self.read.get(first, {0}))} of {tokens} tokens, but only layers "
                f"that read all can be cut; {way_out or 'no chosen layer does, so nothing can be compressed'}."
            )
        self.read, self.current = {}, None

    def moments(self) -> list[tuple[tuple[str, ...], str, torch.Tensor]]:
        """One entry for layers that read the same: their names, the side, the mean as (channels, channels).

        Raises:
            ModelError: activations are not finite.
        """
        return [
            self._moment(tuple(name for name in self.targets if name in names), total / tokens)
            for names, total, tokens in zip(self.members, self.sums, self.tokens, strict=True)
        ]

    def _moment(self, names: tuple[str, ...], c: torch.Tensor) -> tuple[tuple[str, ...], str, torch.Tensor]:
        if not torch.isfinite(c).all():
            raise ModelError(f"The activations that {names[0]} reads are not finite; the model is damaged.")
        weight = self.targets[names[0]].weight.detach().float()
        if len(names) == 1 and weight.shape[0] < weight.shape[1] and not self.of_inputs:
            return names, "output", weight @ c @ weight.T
        return names, "input", c

    def close(self) -> None:
        """Take the hooks off the model's layers."""
        for hook in self.hooks:
            hook.remove()


def basis_values(basis: Basis) -> Iterator[torch.Tensor]:
    """All numbers of a basis, group by group: what a digest of it is made of."""
    for moment in {id(m): m for m in basis.values()}.values():
        yield from (moment.scale, moment.factor, moment.columns)


def save_basis(basis: Basis, path: Path, gradients: Basis | None = None) -> None:
    """Write `basis.safetensors`: three tensors per group, group membership in the metadata."""
    tensors: dict[str, torch.Tensor] = {}
    groups = {}
    for moment in {id(m): m for m in (*basis.values(), *(gradients or {}).values())}.values():
        key = moment.layers[0] if moment.side != GRADIENT else f"{moment.layers[0]}.{GRADIENT}"
        groups[key] = {"layers": moment.layers, "side": moment.side}
        tensors |= {f"{key}.scale": moment.scale, f"{key}.factor": moment.factor, f"{key}.columns": moment.columns}
    save_tensors(tensors, path, {"groups": json.dumps(groups)})


def read_basis(path: Path) -> tuple[Basis, Basis | None]:
    """Read what `save_basis` wrote: the moments of inputs or outputs, and those of gradients of a two-sided basis.

    Raises:
        One of `verified.DAMAGE`: not such a file; `artifact` turns it into one sentence.
    """
    basis: Basis = {}
    gradients: Basis = {}
    tensors, metadata = read_tensors(path, mapped=True)
    for key, group in json.loads(metadata["groups"]).items():
        parts = [tensors[f"{key}.{part}"] for part in ("scale", "factor", "columns")]
        moment = SecondMoment(tuple(group["layers"]), group["side"], *parts)
        part = gradients if moment.side == GRADIENT else basis
        part |= dict.fromkeys(moment.layers, moment)
    return basis, gradients or None
