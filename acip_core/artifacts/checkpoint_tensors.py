"""The tensors of a model at one size, as a checkpoint holds them: their names, their dtype, how each is computed.

Factors, products and converted copies are computed when their shard is written, so one shard at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.integrations.accelerate import load_offloaded_parameter
from transformers.pytorch_utils import Conv1D

from ..errors import ModelError
from ..model.base_model import BaseModel
from ..model.elastic_model import ElasticModel
from ..model.layers import ElasticLinear
from ..model.modeling import LowRankLinear, PivotedLinear, QuantizedLinear, QuantizedLowRankLinear
from ..model.offloading import in_its_file, stored
from ..model.pivoting import Pivoted, pivoted_factors
from ..model.published_types import is_exact, kept_wider
from ..model.quantization import Quantized, prefix
from ..model.rank_costs import pivot_bytes
from ..model.size_planner import DENSE, Plan


@dataclass(frozen=True)
class DeferredTensor:
    """A tensor that is computed when its shard is written.

    Attributes:
        meta: its shape and dtype, on the meta device.
        make: computes it.
        is_wider: whether it is read as published, in a wider type than most of the model's.
    """

    meta: torch.Tensor
    make: Callable[[], torch.Tensor]
    is_wider: bool = False


AnyTensor = torch.Tensor | DeferredTensor
_CODES = (".codes8", ".scale8", ".codes4", ".scale4", ".offset4")  # ends of the names of a `QuantizedMatrix`'s tensors
_OF_EXPORTS = ("acip_base", "ranks", "pivoted", "quantized", "codes", "auto_map")  # in configurations
Tensors = dict[str, AnyTensor]


def meta_of(tensor: AnyTensor) -> torch.Tensor:
    """Its shape and dtype, without data."""
    return tensor.meta if isinstance(tensor, DeferredTensor) else torch.empty_like(tensor, device="meta")


def materialized(tensor: AnyTensor) -> torch.Tensor:
    """The tensor itself, computed now."""
    return tensor.make() if isinstance(tensor, DeferredTensor) else tensor


def earlier_ranks(model: PreTrainedModel) -> dict[str, int]:
    """The ranks of layers that the model, an export itself, holds as factors."""
    return getattr(model.config, "ranks", None) or {}


def earlier_pivoted(model: PreTrainedModel) -> list[str]:
    """Those of these layers that it holds by pivots."""
    return list(getattr(model.config, "pivoted", None) or ())


def cut_ranks(elastic: ElasticModel, plan: Plan) -> dict[str, int]:
    """Rank of every layer below break-even, adapter included, under all names it has."""
    layers = elastic.elastic_layers()
    return {
        alias: layer.adapter_rank + rank
        for (name, layer), rank in zip(layers.items(), plan.ranks, strict=True)
        if rank != DENSE
        for alias in layers.aliases[name]
    }


def base_class(model: PreTrainedModel) -> str:
    """The class of transformers that a model, or the model it was exported from, is of."""
    return getattr(model.config, "acip_base", None) or type(model).__name__


def base_settings(config: dict[str, Any], base: str) -> dict[str, Any]:
    """The configuration of the model that one was exported from."""
    if "acip_base" not in config:
        return config
    settings = {k: v for k, v in config.items() if k not in _OF_EXPORTS}
    return settings | {"model_type": config["model_type"].removeprefix("acip_"), "architectures": [base]}


def factorized(elastic: ElasticModel, ranks: Mapping[str, int]) -> Tensors:
    """Layers as two factors (U, m × rank, in `up`, V, rank × n, in `down`) or by pivots, the others as they are.

    Args:
        ranks: rows of the bank, adapter's included, per place in the model.
    """
    tensors = untied_state(elastic.base)
    # A layer's three tensors stand together in a file, so that one is kept at a time.
    found = lru_cache(maxsize=1)(lambda name: pivoted_factors(*map(materialized, _factors(elastic, name, ranks[name]))))
    for name, rank in ranks.items():
        up, down = _factors(elastic, name, rank)
        del tensors[f"{name}.weight"]
        if elastic.pivoted:
            tensors |= _by_pivots(name, up.meta, down.meta, found)
        else:
            tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
        if f"{name}.bias" in tensors:
            tensors[f"{name}.up.bias"] = tensors.pop(f"{name}.bias")
    return tensors


def _by_pivots(name: str, up: torch.Tensor, down: torch.Tensor, found: Callable[[str], Pivoted]) -> Tensors:
    """A product as `PivotedLinear` reads it; `found` computes its parts by the layer's name.

    Args:
        up, down: U (m, k) and V (k, n), on the meta device.
    """
    (m, rank), n = up.shape, down.shape[1]
    return {
        f"{name}.down.weight": DeferredTensor(up.new_empty(rank, n - rank), lambda: found(name).coefficients),
        f"{name}.up.weight": DeferredTensor(up.new_empty(m, rank), lambda: found(name).columns),
        f"{name}.pivots": DeferredTensor(up.new_empty(pivot_bytes(n), dtype=torch.uint8), lambda: found(name).pivots),
    }


def quantized_parts(elastic: ElasticModel, quantized: Quantized, ranks: Mapping[str, int]) -> Tensors:
    """Target layers as codes and scales, the others as they are."""
    tensors, layers = untied_state(elastic.base), elastic.elastic_layers()
    for layer_name, layer in layers.items():
        packed = quantized.layers[layer_name]
        for name in layers.aliases[layer_name]:
            del tensors[f"{name}.weight"]
            parts = {"weight": (packed.weight, layer.out_features)}
            if name in ranks:
                parts = {"down": (packed.down, ranks[name]), "up": (packed.up, ranks[name])}
            for part, (matrix, rows) in parts.items():
                tensors |= {f"{name}.{part}.{key}": tensor for key, tensor in prefix(matrix, rows).items()}
    return tensors


def multiplied_out(elastic: ElasticModel, ranks: Mapping[str, int]) -> Tensors:
    """Every layer as one matrix, those of an earlier export too, by the names that `save_pretrained` gives them."""
    model = elastic.model
    tensors = untied_state(elastic.base)
    for name, rank in ranks.items():
        weight = f"{name}.weight"
        transposed = meta_of(tensors[weight]).stride() != model.get_parameter(weight).stride()  # as GPT-2 keeps it
        tensors[weight] = _product(*_factors(elastic, name, rank), transposed)
    return saved_names(join_earlier(model, tensors), tensors)


def join_earlier(model: PreTrainedModel, tensors: Tensors) -> PreTrainedModel:
    """Multiply out in `tensors` what an earlier export holds as factors or codes; returns a model of the base class."""
    if not hasattr(model.config, "acip_base"):
        return model
    cls = getattr(transformers, base_class(model))
    settings = base_settings(model.config.to_dict(), cls.__name__)
    with torch.device("meta"):
        plain = cls(cls.config_class.from_dict(settings))
    dense = (getattr(model.config, "quantized", None) or {}).get("dense", ())
    for name in reversed((*earlier_ranks(model), *dense)):  # factors before the layer they are part of
        weight = _joined(model.get_submodule(name), name, tensors)
        is_outer = name in dict(plain.named_modules())
        if is_outer and isinstance(plain.get_submodule(name), Conv1D):
            weight = turned(weight)
        tensors[f"{name}.weight"] = weight
        if f"{name}.up.bias" in tensors:
            tensors[f"{name}.bias"] = tensors.pop(f"{name}.up.bias")
    return plain


def _joined(layer: nn.Module, name: str, tensors: Tensors) -> DeferredTensor:
    """The weight of a layer of an earlier export, whose parts are taken out of `tensors`."""
    if isinstance(layer, PivotedLinear):
        for part in ("pivots", "up.weight", "down.weight"):
            tensors.pop(f"{name}.{part}")
        shape = len(layer.up.weight), layer.in_features
        return DeferredTensor(
            layer.up.weight.new_empty(shape, device="meta"), lambda: layer.weight().to(layer.up.weight.dtype)
        )
    if isinstance(layer, LowRankLinear):
        return _product(tensors.pop(f"{name}.up.weight"), tensors.pop(f"{name}.down.weight"))
    for part in [key for key in tensors if key.startswith((f"{name}.weight.", f"{name}.up.", f"{name}.down."))]:
        del tensors[part]
    if isinstance(layer, QuantizedLinear):
        return DeferredTensor(torch.empty_like(layer.weight(), device="meta"), layer.weight)
    assert isinstance(layer, QuantizedLowRankLinear)
    return _product(layer.up().t(), layer.down())


def _product(up: AnyTensor, down: AnyTensor, transposed: bool = False) -> DeferredTensor:
    """U (m, k) V (k, n), or its transpose."""

    def make() -> torch.Tensor:
        factor = materialized(up)
        return (factor.float() @ materialized(down).float()).to(factor.dtype)

    product = DeferredTensor(meta_of(up).new_empty(len(meta_of(up)), meta_of(down).shape[1]), make)
    return turned(product) if transposed else product


def turned(tensor: DeferredTensor) -> DeferredTensor:
    """The transpose."""
    return DeferredTensor(torch.empty_like(tensor.meta.t().contiguous()), lambda: tensor.make().t())


def _factors(elastic: ElasticModel, name: str, rank: int) -> tuple[DeferredTensor, DeferredTensor]:
    """U (m, rank) and V (rank, n) of a layer, in the dtype that the model runs in."""
    layer = elastic.model.get_submodule(name)
    assert isinstance(layer, ElasticLinear)
    dtype = layer.weight.dtype
    return (
        DeferredTensor(layer.up[:rank].t().to("meta", dtype), lambda: stored(layer, "up")[:rank].t().to(dtype)),
        DeferredTensor(layer.down[:rank].to("meta", dtype), lambda: stored(layer, "down")[:rank].to(dtype)),
    )


def untied_state(base: BaseModel) -> Tensors:
    """The model's state without tied weights, which its class ties again; what lies in files is read when it is due."""
    tied = base.model.all_tied_weights_keys
    state = {name: tensor for name, tensor in base.model.state_dict().items() if name not in tied}
    return {name: _read_when_due(name, tensor, base) if tensor.is_meta else tensor for name, tensor in state.items()}


def _read_when_due(name: str, tensor: torch.Tensor, base: BaseModel) -> DeferredTensor:
    if (wider := kept_wider(name, tensor, base)) is not None:
        return DeferredTensor(tensor.to(wider.dtype), partial(in_its_file, base.model, name), True)
    return DeferredTensor(tensor, partial(load_offloaded_parameter, base.model, name))


def saved_names(model: PreTrainedModel, tensors: Tensors) -> Tensors:
    """Tensors as `save_pretrained` of the model's class would write them: experts are one matrix each in files."""
    shapes = {name: meta_of(t) for name, t in tensors.items()}
    passed = {id(t) for t in revert_weight_conversion(model, shapes).values()}  # renamed at most
    later = {
        id(shapes[name]): t
        for name, t in tensors.items()
        if isinstance(t, DeferredTensor) and id(shapes[name]) in passed
    }
    given = {name: shapes[name] if id(shapes[name]) in later else materialized(t) for name, t in tensors.items()}
    return {name: later.get(id(t), t) for name, t in revert_weight_conversion(model, given).items()}


def as_stored(tensors: Tensors, base: BaseModel, dtype: torch.dtype | None = None) -> Tensors:
    """Tensors of the dtype that the model runs in as `dtype`, or as published; codes and scales stay as they are.

    Args:
        dtype: None leaves what was read from the checkpoint as it runs where the published type would change a value,
            unless the checkpoint was quantized.
    """
    always = dtype is not None or base.is_dequantized
    return {
        name: t if name.endswith(_CODES) else _cast(name, t, base.dtype, dtype or base.stored_dtype, always)
        for name, t in tensors.items()
    }


def _cast(name: str, tensor: AnyTensor, running: torch.dtype, dtype: torch.dtype, always: bool) -> AnyTensor:
    given, deferred = meta_of(tensor).dtype, isinstance(tensor, DeferredTensor)
    if given == dtype or given not in ((running, torch.float32) if deferred else (running,)):
        return tensor
    if not always and (tensor.is_wider if isinstance(tensor, DeferredTensor) else not is_exact(tensor, dtype)):
        return tensor
    return DeferredTensor(meta_of(tensor).to(dtype), lambda: finite(name, materialized(tensor), dtype))


def finite(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor in another dtype.

    Raises:
        ModelError: it has values beyond it.
    """
    cast = tensor.to(dtype)
    if not cast.isfinite().all():
        raise ModelError(f"{name} has values beyond {str(dtype).split('.')[1]}; choose bfloat16 or float32.")
    return cast
