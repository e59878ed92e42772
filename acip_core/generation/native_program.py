"""What `decode_step.c` runs: a list of operations on rows of buffers, written once for each combination of sizes.

All threads run the list in step. Operations that do not read each other's results have no barrier between them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..model.coded_layers import CodedHead
from ..model.cut import State, runs
from ..model.layers import ElasticLinear
from ..model.operating_points import code_of, is_coded
from ..model.size_planner import DENSE

NORM, SCALE, FLOATS, BYTES, TURNED, ROTATE, ATTEND, GATE = range(8)  # as in decode_step.c
_OP = np.dtype(
    [(name, "i4") for name in ("kind", "sync", "rows", "n", "m", "add", "layer")]
    + [("least", "f4"), ("x_step", "i8"), ("y_step", "i8")]
    + [(name, "u8") for name in ("x", "y", "w", "a", "b", "ranks")]
)
_SYNC = 1  # place in an operation
_READ = {FLOATS: torch.float32, BYTES: torch.int8, TURNED: torch.float32}  # weights' types
_Product = tuple[int, torch.Tensor, torch.Tensor, dict[str, Any]]


class NotNative(Exception):
    """The native code does not know something of this model."""


class Buffers:
    """Features (rows, width) between the operations on so many sequences, taken once for all programs."""

    def __init__(self, rows: int):
        self.rows = rows
        self._named: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, width: int) -> torch.Tensor:
        """The buffer of a name, at least as wide; a wider one leaves the former to the programs that have it."""
        if name not in self._named or self._named[name].shape[1] < width:
            self._named[name] = torch.zeros(self.rows, width)
        held = self._named[name]
        return held if held.shape[1] == width else held[:, :width]


class Program:
    """A list of operations, and all tensors that it points to."""

    def __init__(self) -> None:
        self._ops: list[list[float]] = []
        self._held: list[tuple[torch.Tensor | None, ...]] = []

    def add(
        self, kind: int, x: torch.Tensor, y: torch.Tensor, *, w: torch.Tensor | None = None,
        a: torch.Tensor | None = None, b: torch.Tensor | None = None, ranks: torch.Tensor | None = None,
        add: bool = False, layer: int = 0, least: float = 0.0,
    ) -> None:  # fmt: skip
        """An operation that reads rows of x and writes those of y; what the others are, decode_step.c says.

        Raises:
            NotNative: a weight is of a type or in an order that the native code does not read.
        """
        if kind in _READ and not (w is not None and w.is_contiguous() and w.dtype == _READ[kind]):
            raise NotNative
        tensors = x, y, w, a, b, ranks
        self._held.append(tensors)
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        sizes = len(x), x.shape[1], y.shape[1]
        self._ops.append([kind, 0, *sizes, add, layer, least, x.stride(0), y.stride(0), *addresses])

    def sync(self) -> None:
        """All that was added so far ends before anything else begins."""
        self._ops[-1][_SYNC] = 1

    def products(
        self, x: torch.Tensor, layers: dict[nn.Linear, torch.Tensor], spare: Buffers, add: bool = False
    ) -> None:
        """What layers make of features x at the sizes in force on this thread.

        Args:
            layers: with the outputs (rows, out_features) of each.
            spare: for what is between two factors.
            add: to what is in the outputs.
        """
        stages: tuple[list[_Product], ...] = [], [], []
        for place, (layer, y) in enumerate(layers.items()):
            z = spare(f"between {place}", _room(layer))
            for rows, states in runs(_state(layer), len(x)):
                for stage, more in zip(stages, _products(layer, states, x[rows], z[rows], y[rows], add), strict=True):
                    stage += more
        for stage in filter(None, stages):
            for kind, source, target, fields in stage:
                self.add(kind, source, target, **fields)
            self.sync()

    def finish(self) -> NDArray[np.void]:
        """The list as it lies in memory; valid for as long as this program is."""
        return np.array([tuple(op) for op in self._ops], _OP)


def _state(layer: nn.Linear) -> State:
    return layer.state if isinstance(layer, ElasticLinear | CodedHead) else DENSE


def _room(layer: nn.Linear) -> int:
    """Numbers of a row that are between two stages, at most."""
    directions = len(layer.down) if isinstance(layer, ElasticLinear) else 0
    coded = len(layer.bank.a) if isinstance(layer, ElasticLinear | CodedHead) and layer.bank is not None else 0
    return max(directions, layer.in_features + coded)


def _products(
    layer: nn.Linear, states: tuple[int, ...], x: torch.Tensor, z: torch.Tensor, y: torch.Tensor, add: bool
) -> tuple[list[_Product], list[_Product], list[_Product]]:
    """A layer's operations on rows that run the same way, those of each stage reading what the one before wrote."""
    if states[0] == DENSE:
        return [], [(FLOATS, x, y, {"w": layer.weight, "a": layer.bias, "add": add})], []
    assert isinstance(layer, ElasticLinear | CodedHead)
    if is_coded(states[0]):
        level, adapted = code_of(states[0])
        bank = layer.bank
        assert bank is not None
        scaled, latent = z[:, : x.shape[1]], z[:, x.shape[1] : x.shape[1] + len(bank.a)]
        columns: list[_Product] = [(SCALE, x, scaled, {"a": bank.columns[level]})]
        fields = {"w": bank.codes[level].z, "a": layer.bias, "b": bank.rows[level], "add": add}
        codes: list[_Product] = [(BYTES, scaled, y, fields)]
        if not adapted:
            return columns, codes, []
        return columns, [*codes, (FLOATS, x, latent, {"w": bank.a})], [(FLOATS, latent, y, {"w": bank.b, "add": True})]
    assert isinstance(layer, ElasticLinear)
    widths = torch.tensor([layer.adapter_rank + rank for rank in states], dtype=torch.int32)
    z = z[:, : int(widths[0])]
    back: _Product = TURNED, z, y, {"w": layer.up, "a": layer.bias, "ranks": widths, "add": add}
    return [], [(FLOATS, x, z, {"w": layer.down})], [back]
