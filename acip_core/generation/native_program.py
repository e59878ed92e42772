"""What `decode_step.c` runs: a list of operations on rows of buffers, written once for the weights of a model.

All threads run the list in step. Operations that do not read each other's results have no barrier between them.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..model.coded_layers import CodeBank, CodedHead
from ..model.layers import ElasticLinear

NORM, COLUMNS, PRODUCT, BACK, ROTATE, ATTEND, GATE = range(7)  # as in decode_step.c
_OP = np.dtype(
    [(name, "i4") for name in ("kind", "sync", "n", "m", "add", "block", "heads")]
    + [("least", "f4"), ("x_step", "i8"), ("y_step", "i8"), ("z_step", "i8")]
    + [(name, "u8") for name in ("x", "y", "z", "w", "keys", "values", "layer")]
)
_LAYER = np.dtype(
    [(name, "u8") for name in ("weight", "bias", "down", "up", "codes", "a", "b")]
    + [(name, "i4") for name in ("place", "adapter", "beside", "halves")]
)
_CODES = np.dtype([(name, "u8") for name in ("z", "rows", "columns")])


class NotNative(Exception):
    """The native code does not know something of this model."""


class Program:
    """A list of operations on buffers, and all that it points to.

    Attributes:
        rows: that the buffers have, of which a pass uses the first.
        layers: whose states a pass says.
    """

    def __init__(self, rows: int):
        self.rows, self.layers = rows, 0
        self._ops: list[dict[str, Any]] = []
        self._held: list[Any] = []
        self._between: list[torch.Tensor] = []

    def buffer(self, width: int) -> torch.Tensor:
        """Features (rows, width) between operations."""
        return torch.zeros(self.rows, width)

    def add(
        self, kind: int, x: torch.Tensor, y: torch.Tensor, *, w: torch.Tensor | None = None,
        keys: torch.Tensor | None = None, values: torch.Tensor | None = None, block: int = 0, heads: int = 1,
        least: float = 0.0,
    ) -> None:  # fmt: skip
        """An operation that reads rows of x and writes those of y; what the others are, decode_step.c says."""
        tensors = {"x": x, "y": y, "w": w, "keys": keys, "values": values}
        self._add(kind, tensors, block=block, heads=heads, least=least)

    def sync(self) -> None:
        """All that was added so far ends before anything else begins."""
        self._ops[-1]["sync"] = 1

    def products(self, x: torch.Tensor, layers: dict[nn.Linear, torch.Tensor], add: bool = False) -> None:
        """What layers make of features x at the states of each pass.

        Args:
            layers: with the outputs (rows, out_features) of each.
            add: to what is in the outputs.

        Raises:
            NotNative: a weight is of a type or in an order that the native code does not read.
        """
        records = [(self._layer(layer), y, self._z(place, layer)) for place, (layer, y) in enumerate(layers.items())]
        for kind in (COLUMNS, PRODUCT, BACK):
            for record, y, z in records:
                self._add(kind, {"x": x, "y": y, "z": z}, layer=record.ctypes.data, add=add)
            self.sync()

    def finish(self) -> NDArray[np.void]:
        """The list as it lies in memory; valid for as long as this program is."""
        ops = np.zeros(len(self._ops), _OP)
        for op, fields in zip(ops, self._ops, strict=True):
            for name, value in fields.items():
                op[name] = value
        return ops

    def _add(self, kind: int, tensors: dict[str, torch.Tensor | None], **fields: Any) -> None:
        x, y = cast(torch.Tensor, tensors["x"]), cast(torch.Tensor, tensors["y"])
        self._held.append(tensors)
        fields |= {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}
        fields |= {f"{name}_step": t.stride(0) for name in "xyz" if (t := tensors.get(name)) is not None}
        self._ops.append({"kind": kind, "n": x.shape[1], "m": y.shape[1]} | fields)

    def _z(self, place: int, layer: nn.Linear) -> torch.Tensor:
        """What is between two factors of a layer, or of codes and what runs beside them."""
        directions = len(layer.down) if isinstance(layer, ElasticLinear) else 0
        bank = _bank(layer)
        width = max(directions, 0 if bank is None else layer.in_features + len(bank.a), 1)
        if place == len(self._between) or self._between[place].shape[1] < width:
            self._between[place : place + 1] = [self.buffer(width)]
        return self._between[place]

    def _layer(self, layer: nn.Linear) -> NDArray[np.void]:
        record, bank = np.zeros(1, _LAYER), _bank(layer)
        record["place"] = place = layer.index if isinstance(layer, ElasticLinear | CodedHead) else -1
        self.layers = max(self.layers, place + 1)
        parts: dict[str, torch.Tensor | None] = {"weight": layer.weight, "bias": layer.bias}
        if isinstance(layer, ElasticLinear):
            record["halves"] = layer.down.dtype == torch.bfloat16
            for name, factor in (("down", layer.down), ("up", layer.up)):
                record[name] = self._address(factor, torch.bfloat16 if record["halves"] else torch.float32)
            record["adapter"] = layer.adapter_rank
        if bank is not None:
            parts |= {"a": bank.a, "b": bank.b}
            record["beside"] = len(bank.a)
            record["codes"] = self._codes(bank).ctypes.data
        for name, part in parts.items():
            record[name] = self._address(part, torch.float32)
        self._held.append(record)
        return record

    def _codes(self, bank: CodeBank) -> NDArray[np.void]:
        levels = np.zeros(len(bank.codes), _CODES)
        for level, codes, rows, columns in zip(levels, bank.codes, bank.rows, bank.columns, strict=True):
            level["z"] = self._address(codes.z, torch.int8)
            level["rows"], level["columns"] = (self._address(steps, torch.float32) for steps in (rows, columns))
        self._held.append(levels)
        return levels

    def _address(self, tensor: torch.Tensor | None, dtype: torch.dtype) -> int:
        """Where it lies, 0 where there is none."""
        if tensor is None or not tensor.numel():
            return 0
        if tensor.dtype != dtype or not tensor.is_contiguous():
            raise NotNative
        self._held.append(tensor)
        return tensor.data_ptr()


def _bank(layer: nn.Linear) -> CodeBank | None:
    return layer.bank if isinstance(layer, ElasticLinear | CodedHead) else None
