"""Causal language models of transformers some of whose linear layers have a low rank, or are quantized.

A copy of this file, with last lines that name the base model's class, is part of every exported model; so it needs
nothing but torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D


class LowRankLinear(nn.Module):
    """`y = U V x + b` with V (rank, in_features) in `down` and U (out_features, rank) in `up`."""

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool):
        super().__init__()
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x))


class PivotedLinear(nn.Module):
    """`y = A (x_pivots + T x_others) + b`: a matrix of rank k by k of its columns, A (out_features, k) in `up`, and the
    coefficients T (k, in_features − k) of all others, in `down`.

    Attributes:
        pivots: uint8 (⌈in_features / 8⌉,), a bit for each column, the first in the lowest bit; set where it is a pivot.
            In another type, which holds these numbers too, where all parameters are to have one.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool):
        super().__init__()
        self.in_features, self.rank = in_features, rank
        self.down = nn.Linear(in_features - rank, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=bias)
        # No buffer: what fills a model by its parameters' names, such as vLLM, knows no others.
        self.pivots = nn.Parameter(torch.zeros(-(-in_features // 8), dtype=torch.uint8), requires_grad=False)
        self._order: tuple[torch.Tensor, torch.Tensor] | None = None

    def columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of the pivots and of all other columns, both ascending.

        Raises:
            ValueError: the bits name another number of columns than the rank.
        """
        if self._order is None or self._order[0].device != self.pivots.device:
            packed = self.pivots.detach().to(torch.uint8)
            bits = (packed[:, None] >> torch.arange(8, device=self.pivots.device, dtype=torch.uint8)) & 1
            chosen = bits.flatten()[: self.in_features].bool()
            order = chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
            if len(order[0]) != self.rank:
                raise ValueError(f"{len(order[0])} pivots instead of {self.rank}; download the model again.")
            self._order = order
        return self._order

    def weight(self) -> torch.Tensor:
        """The matrix (out_features, in_features) in float32."""
        pivots, others = self.columns()
        up = self.up.weight.float()
        whole = up.new_empty(len(up), self.in_features)
        whole[:, pivots], whole[:, others] = up, up @ self.down.weight.float()
        return whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pivots, others = self.columns()
        return self.up(x[..., pivots] + self.down(x[..., others]))


class QuantizedMatrix(nn.Module):
    """A matrix (rows, columns) whose first rows have 8 bits and whose others have 4, in groups of columns:

        8 bits: W = code · scale        4 bits: W = levels[code] · scale + offset

    Attributes:
        codes8, scale8: int8 (eight, columns), float16 (eight, columns / group).
        codes4, scale4, offset4: uint8 (rows − eight, columns / 2), the even column in the upper half; float16
            (rows − eight, columns / group); the offset only where the levels are shifted.
    """

    codes8: torch.Tensor
    scale8: torch.Tensor
    codes4: torch.Tensor
    scale4: torch.Tensor
    offset4: torch.Tensor

    def __init__(self, rows: int, columns: int, eight: int, group: int, levels: Sequence[float], shifted: bool):
        super().__init__()
        self.levels, groups, eight = tuple(levels), columns // group, min(eight, rows)
        if eight:
            self.register_buffer("codes8", torch.zeros(eight, columns, dtype=torch.int8))
            self.register_buffer("scale8", torch.zeros(eight, groups, dtype=torch.float16))
        if eight < rows:
            self.register_buffer("codes4", torch.zeros(rows - eight, columns // 2, dtype=torch.uint8))
            for name in ("scale4", "offset4")[: 1 + shifted]:
                self.register_buffer(name, torch.zeros(rows - eight, groups, dtype=torch.float16))

    def forward(self) -> torch.Tensor:
        """The matrix in float32."""
        parts = []
        if hasattr(self, "codes8"):
            parts.append(_scaled(self.codes8.float(), self.scale8))
        if hasattr(self, "codes4"):
            levels = torch.tensor(self.levels, device=self.codes4.device)
            values = levels[torch.stack([self.codes4 >> 4, self.codes4 & 15], dim=-1).flatten(1).int()]
            parts.append(_scaled(values, self.scale4, getattr(self, "offset4", None)))
        return torch.cat(parts)


def _scaled(values: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
    groups = values.view(*scale.shape, -1) * scale.float()[..., None]
    return (groups if offset is None else groups + offset.float()[..., None]).view_as(values)


class QuantizedLinear(nn.Module):
    """`y = W x + b` with a quantized W; it is dequantized for every product."""

    def __init__(self, weight: QuantizedMatrix, out_features: int, bias: bool):
        super().__init__()
        self.weight = weight
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight().to(x.dtype), self.bias)


class QuantizedLowRankLinear(nn.Module):
    """`y = U V x + b` with V (rank, in_features) in `down` and Uᵀ (rank, out_features) in `up`, both quantized."""

    def __init__(self, down: QuantizedMatrix, up: QuantizedMatrix, out_features: int, bias: bool):
        super().__init__()
        self.down, self.up = down, up
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, self.down().to(x.dtype)), self.up().to(x.dtype).t(), self.bias)


def compressed(base: type[PreTrainedModel]) -> tuple[type[PreTrainedConfig], type[PreTrainedModel]]:
    """The configuration and the model of a base class whose layers named in `config.ranks` have these ranks.

    Those that `config.pivoted` names, too, are stored by pivots, the others as two factors.
    With `config.quantized` (group, levels, shifted, and of the leading rows with 8 bits: eight in a factor,
    eight_dense in a whole weight) these layers and those it names as `dense` are quantized, but not those it names as
    `plain`. A factor may itself be factorized or quantized; it is named after the layer that it is part of.
    """
    base_config: Any = base.config_class

    class CompressedConfig(base_config):
        model_type = f"acip_{base_config.model_type}"  # so that nothing takes it for the base model
        ranks: Any = None
        pivoted: Any = None
        quantized: Any = None

        @property
        def base_model_tp_plan(self) -> Any:
            return tensor_parallel_plan(base_config.base_model_tp_plan, self, base)

    class CompressedForCausalLM(_replacing(base)):  # type: ignore[misc]
        config_class = CompressedConfig

    return CompressedConfig, CompressedForCausalLM


def headless(model: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The model of `compressed` without its head, as `AutoModel` gives it, with the same layers in the same places."""
    config: Any = model.config_class
    parent = next(MODEL_MAPPING[cls] for cls in config.__mro__ if cls in MODEL_MAPPING)

    class CompressedModel(_replacing(parent)):  # type: ignore[misc]
        config_class = config

    return CompressedModel


def _replacing(base: type[PreTrainedModel]) -> Any:
    """A class of transformers with other layers where its configuration names ranks or bits."""

    class Replacing(base):  # type: ignore[misc, valid-type]
        def __init__(self, config: PreTrainedConfig, *inputs: Any, **settings: Any):
            super().__init__(config, *inputs, **settings)
            bits = config.quantized or {}
            names, before = (*(config.ranks or {}), *bits.get("dense", ())), dict(self.named_modules())
            outer = "" if hasattr(self, self.base_model_prefix) else f"{self.base_model_prefix}."
            self._replaced = {}
            for name in names:
                place = name.removeprefix(outer)
                layer = self.get_submodule(place)
                m, n = (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)
                form = {} if name in bits.get("plain", ()) else bits
                rank, pivoted = (config.ranks or {}).get(name), name in (config.pivoted or ())
                self.set_submodule(place, _replacement(m, n, rank, layer.bias is not None, form, pivoted))
                if place in before:
                    self._replaced[place] = stand_in(before[place])

        @classmethod
        def is_custom_code(cls) -> bool:
            """No: transformers skips `_init_weights` of such models, where some fill buffers that are not stored."""
            return False

        @torch.no_grad()
        def initialize_weights(self) -> None:
            """Fill what was not read from files, while layers that the base class knows stand in for ours."""
            ours = {name: self.get_submodule(name) for name in getattr(self, "_replaced", ())}
            for name in ours:
                self.set_submodule(name, self._replaced[name])
            super().initialize_weights()
            for name, layer in ours.items():
                self.set_submodule(name, layer)
                layer.apply(self._initialize_weights)

    return Replacing


def tensor_parallel_plan(
    plan: dict[str, str] | None, config: Any, base: type[PreTrainedModel]
) -> dict[str, str] | None:
    """A base class's plan for the layers of a configuration's model, each by its own name.

    A layer split by rows of its output is split in `up`, one split by its input in `down`; the other factor is whole
    everywhere. None where there is no such plan: pivots are picked from the whole input.
    """
    ranks, outer = config.ranks or {}, f"{base.base_model_prefix}."
    if not plan or config.quantized:
        return None
    result = {}
    for pattern, style in plan.items():
        if "*" not in pattern:
            result[pattern] = style
            continue
        for index in range(config.num_hidden_layers):
            place = pattern.replace("*", str(index), 1)
            if outer + place not in ranks:
                result[place] = style
            elif style == "rowwise" and outer + place in (config.pivoted or ()):
                return None
            else:
                result[f"{place}.{'down' if style == 'rowwise' else 'up'}"] = style
    return result


def stand_in(layer: nn.Module) -> nn.Module:
    """A layer without data that counts as filled."""
    parts: tuple[Any, ...] = (layer.to("meta"), *layer.parameters())
    for part in parts:
        part._is_hf_initialized = True
    return layer


def _replacement(m: int, n: int, rank: int | None, bias: bool, bits: dict[str, Any], pivoted: bool) -> nn.Module:
    if not bits:
        assert rank is not None
        return (PivotedLinear if pivoted else LowRankLinear)(n, m, rank, bias)
    form = bits["group"], bits["levels"], bits["shifted"]
    if rank is None:
        return QuantizedLinear(QuantizedMatrix(m, n, bits["eight_dense"], *form), m, bias)
    down, up = (QuantizedMatrix(rank, columns, bits["eight"], *form) for columns in (n, m))
    return QuantizedLowRankLinear(down, up, m, bias)
