"""Fewer bits: the target layers of an elastic model quantized, weight-only, as they will be stored.

`int8` and `int4` come from torchao, `nf4` and `fp4` from bitsandbytes. Groups lie along the rows that the elastic layer
cuts, so every size is still a prefix. The rows that carry most of the output (a factor's leading directions, its
adapter) keep 8 bits where the others have 4. The model computes with the dequantized values: precision changes its
answers and its bytes, not its speed.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import PrecisionError
from ..progress import Progress, Steps
from .base_model import BaseModel
from .elastic_model import ElasticModel
from .modeling import QuantizedMatrix
from .offloading import check_in_memory
from .rank_costs import BytesPerParameter
from .target_layers import target_layers

FULL = "full"
PRECISIONS = ("int8", "int4", "nf4", "fp4")
_GROUP = 32  # columns that share a scale
_LEADING = 32  # directions with 8 bits; 40 % of the default model loses 3 % of its perplexity with them, 20 % without
_INT4 = tuple(float(level) for level in range(-8, 8))
_SCALE = 2  # bytes of a scale or an offset


@dataclass(frozen=True)
class Precision:
    """How target layers are stored.

    Attributes:
        name: `int8`, `int4`, `nf4` or `fp4`.
        group: columns that share a scale.
        levels: the 16 values of 4 bits, before scale and offset.
        shifted: whether groups of 4 bits have an offset.
    """

    name: str
    group: int
    levels: tuple[float, ...]
    shifted: bool

    @property
    def storage(self) -> BytesPerParameter:
        """Bytes that a weight takes with its share of scale and offset, by where it stands."""
        eight = 1 + _SCALE / self.group
        if self.name == "int8":
            return BytesPerParameter(eight, eight, eight, 0)
        four = 0.5 + (1 + self.shifted) * _SCALE / self.group
        return BytesPerParameter(four, eight, four, _LEADING)

    def leading(self, rows: int, adapter_rank: int) -> int:
        """Rows with 8 bits of a factor with `rows` rows."""
        return rows if self.name == "int8" else min(rows, adapter_rank + _LEADING)

    def leading_dense(self, rows: int) -> int:
        """Rows with 8 bits of a whole weight."""
        return rows if self.name == "int8" else 0


@dataclass(frozen=True)
class Packed:
    """A layer as it is stored: weight (m, n), down (a + K, n) and up (a + K, m)."""

    weight: QuantizedMatrix
    down: QuantizedMatrix
    up: QuantizedMatrix


@dataclass(frozen=True)
class Quantized:
    """The target layers of a model as they are stored, by name."""

    precision: Precision
    layers: dict[str, Packed]


def precisions() -> tuple[str, ...]:
    """The names that can be had here, `full` first."""
    return (FULL, *(PRECISIONS if importlib.util.find_spec("bitsandbytes") else PRECISIONS[:2]))


def at_precision(method: str, name: str) -> str:
    """The name of a method's curve at a precision."""
    return method if name == FULL else f"{method}, {name}"


def check_precision(name: str) -> None:
    """Refuse a precision that cannot be had, whatever the model.

    Raises:
        PrecisionError: the name is unknown, or its library is missing.
    """
    if name not in precisions():
        known = ", ".join(precisions())
        hint = "; install bitsandbytes for it" if name in ("nf4", "fp4") else ""
        raise PrecisionError(f"There is no precision '{name}' here, but {known}{hint}.")


def precision(name: str, widths: Iterable[int]) -> Precision:
    """The precision of a name for layers of these widths.

    Raises:
        PrecisionError: as `check_precision`, or the widths have no common group.
    """
    check_precision(name)
    group = math.gcd(_GROUP, *widths)
    if group < (smallest := _GROUP if name in ("nf4", "fp4") else 8):
        raise PrecisionError(
            f"{name} needs layers whose widths are multiples of {smallest}; this model's have {group} in common."
        )
    if name in ("nf4", "fp4"):
        from bitsandbytes.functional import get_4bit_type

        return Precision(name, group, tuple(get_4bit_type(name, device="cpu").tolist()), False)
    return Precision(name, group, _INT4, True)


def quantize(elastic: ElasticModel, name: str) -> Steps[Quantized]:
    """Quantize the target layers of an elastic model in place; sizes count the bytes of what is stored from then on.

    Returns:
        The layers as they are stored, for `export`.

    Raises:
        PrecisionError: as `precision`.
        ModelError: as `check_in_memory`.
    """
    check_in_memory(elastic.model, f"weights in {name}")
    layers = elastic.elastic_layers()
    chosen = precision(name, (n for layer in layers.values() for n in (layer.in_features, layer.out_features)))
    packed: dict[str, Packed] = {}
    for index, (place, layer) in enumerate(layers.items()):
        eight = chosen.leading(len(layer.down), layer.adapter_rank)
        stored = Packed(
            pack(layer.weight.detach(), chosen.leading_dense(layer.out_features), chosen),
            pack(layer.down, eight, chosen),
            pack(layer.up, eight, chosen),
        )
        layer.weight.data.copy_(stored.weight())
        layer.down.copy_(stored.down())
        layer.up.copy_(stored.up())
        packed[place] = stored
        yield Progress(f"quantizing to {name}", index + 1, len(layers))
    elastic.store_as(chosen.storage)
    return Quantized(chosen, packed)


def quantize_base(base: BaseModel, name: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> None:
    """Quantize the target weights of a base model in place, as before scoring in section 3.4 of the paper.

    Raises:
        PrecisionError: as `precision`.
        ModelError: as `check_in_memory`.
    """
    check_in_memory(base.model, f"weights in {name}")
    layers = target_layers(base.model, include, exclude).values()
    chosen = precision(name, (n for layer in layers for n in (layer.in_features, layer.out_features)))
    for layer in layers:
        layer.weight.data.copy_(pack(layer.weight.detach(), chosen.leading_dense(layer.out_features), chosen)())


@torch.no_grad()
def pack(matrix: torch.Tensor, eight: int, precision: Precision) -> QuantizedMatrix:
    """Quantize a matrix (rows, columns), its first `eight` rows to 8 bits and the others to 4."""
    matrix = matrix.float()
    rows, columns = matrix.shape
    packed = QuantizedMatrix(rows, columns, eight, precision.group, precision.levels, precision.shifted)
    packed.to(matrix.device)
    if eight:
        packed.codes8, packed.scale8 = _int8(matrix[:eight], precision.group)
    if eight < len(matrix):
        if precision.shifted:
            packed.codes4, packed.scale4, packed.offset4 = _int4(matrix[eight:], precision.group)
        else:
            packed.codes4, packed.scale4 = _bitsandbytes(matrix[eight:], precision)
    return packed


def _int8(rows: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    primitives = _torchao("quant_primitives")
    block, limits = (1, group), (-128, 127)
    scale, zero = primitives.choose_qparams_affine(
        rows, primitives.MappingType.SYMMETRIC, block, torch.int8, *limits, scale_dtype=torch.float32
    )
    scale = scale.half().view(len(rows), -1)  # torchao drops the axis of groups where there is one
    return primitives.quantize_affine(rows, block, scale.float(), zero, torch.int8, *limits), scale


def _int4(rows: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    utils = _torchao("utils")
    scale, offset = utils.get_groupwise_affine_qparams(rows, 4, group, torch.float16)
    codes = utils.groupwise_affine_quantize_tensor_from_qparams(rows, scale.float(), offset.float(), 4, group)
    if codes.dtype != torch.uint8:  # packed already on some devices
        codes = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
    return codes, scale, offset


def _bitsandbytes(rows: torch.Tensor, precision: Precision) -> tuple[torch.Tensor, torch.Tensor]:
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(rows.contiguous(), blocksize=precision.group, quant_type=precision.name)
    return codes.view(len(rows), -1), state.absmax.view(len(rows), -1).half()


def _torchao(module: str) -> Any:
    """A module of torchao, without its warnings about kernels that are not used here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"torchao.quantization.{module}")


def prefix(matrix: QuantizedMatrix, rows: int) -> dict[str, torch.Tensor]:
    """The stored tensors of the first `rows` rows, by name."""
    stored = matrix.state_dict()
    eight = len(stored["codes8"]) if "codes8" in stored else 0
    taken = {name: t[: rows if name.endswith("8") else max(0, rows - eight)] for name, t in stored.items()}
    return {name: t for name, t in taken.items() if len(t)}
