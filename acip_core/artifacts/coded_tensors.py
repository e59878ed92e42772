"""The tensors of a model at a size in bytes: each matrix as `coded_modeling` reads it, or multiplied out.

Of a matrix at a level: the entropy-coded integers (`stream`), exponents of rows and columns above the `least` of each,
classes two a byte; of one as published, its blocks where it came out of such, else the matrix in the published dtype.
All bytes together are those that the plan was made for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..model.coded_states import CodedStates
from ..model.codes import Codes
from ..model.elastic_model import AdapterWeights, ElasticModel
from ..model.entropy_coding import Coded, encode
from ..model.layers import ElasticLinear
from ..model.operating_points import code_of, is_coded
from ..model.published import Blocks, published_blocks
from ..model.size_planner import Plan
from ..model.target_layers import module_names
from ..progress import Progress, Steps
from .checkpoint_tensors import (
    DeferredTensor,
    Tensors,
    as_stored,
    join_earlier,
    saved_names,
    turned,
    untied_state,
)
from .coding import in_eight_bits, rounded_adapter

_PART = 1 << 24  # integers that are coded in one call, about


@dataclass(frozen=True)
class _Matrix:
    """A target layer or a table at a state of the plan.

    Attributes:
        places: its names, those of what is tied to it after its own.
        codes: at its level; None where it is as published.
    """

    name: str
    places: tuple[str, ...]
    weight: torch.Tensor
    codes: Codes | None
    adapter: AdapterWeights | None


def coded_parts(elastic: ElasticModel, plan: Plan, dtype: torch.dtype | None = None) -> Steps[tuple[Tensors, dict]]:
    """All tensors of the model at a plan that spends bytes, and what `coded_modeling.coded` reads as `config.codes`.

    Args:
        dtype: of the parameters that are in no codes or blocks; as the model is published when left out.
    """
    states = _states(elastic)
    tensors, stored = untied_state(elastic.base), states.coded.tables.tensor()
    if not any(map(is_coded, plan.states)):
        stored = stored[:0]  # there is nothing to decode
    codes: dict[str, Any] = {"frequencies": len(stored), "weights": {}, "shared": {}}
    read_as_codes: Tensors = {}
    matrices = list(_matrices(elastic, plan))
    streams = yield from _streams([matrix for matrix in matrices if matrix.codes is not None], states)
    for matrix in matrices:
        parts: dict[str, torch.Tensor]
        if matrix.codes is not None:
            parts = {"weight." + key: part for key, part in code_parts(matrix.codes, streams[matrix.name]).items()}
            form = {"stream": len(streams[matrix.name])}
            if matrix.adapter is not None:
                a, b, a_scale, b_scale = rounded_adapter(matrix.adapter)
                parts |= {"adapter.a": a, "adapter.a_scale": a_scale, "adapter.b": b, "adapter.b_scale": b_scale}
                form["adapter"] = len(a)
        elif blocks := published_blocks(matrix.weight.float()):
            parts = {"weight." + key: part for key, part in _block_parts(blocks).items()}
            form = {"bits": 8 if blocks.offset is None else 4}
        else:
            continue
        codes["weights"][matrix.name] = form
        is_layer = matrix.name in elastic.elastic_layers()
        for place in matrix.places:
            tensors.pop(f"{place}.weight", None)
            if place != matrix.name:
                codes["shared"][place] = matrix.name
                if is_layer:  # the same module; a head that is tied to the embedding has a bias of its own
                    tensors.pop(f"{place}.bias", None)
        read_as_codes |= {f"{matrix.name}.{key}": part for key, part in parts.items()}
    return as_stored(tensors, elastic.base, dtype) | read_as_codes | {"code_frequencies": stored}, codes


def dense_weights(elastic: ElasticModel, plan: Plan) -> Tensors:
    """Every weight of a model at a plan that spends bytes as one matrix, by the names that `save_pretrained` gives."""
    model, tensors = elastic.model, untied_state(elastic.base)
    for matrix in _matrices(elastic, plan):
        if matrix.codes is None:
            continue
        for place in matrix.places:
            if (stored := tensors.get(f"{place}.weight")) is not None:
                assert isinstance(stored, torch.Tensor)
                product = _multiplied_out(matrix)
                is_turned = stored.stride() != model.get_parameter(f"{place}.weight").stride()  # as GPT-2 keeps it
                tensors[f"{place}.weight"] = turned(product) if is_turned else product
    return saved_names(join_earlier(model, tensors), tensors)


def code_parts(codes: Codes, stream: torch.Tensor) -> dict[str, torch.Tensor]:
    """What `coded_modeling.CodedMatrix` holds, of codes and their entropy-coded integers."""
    rows, columns = codes.classes()
    least = torch.stack([codes.rows.min(), codes.columns.min()])
    return {
        "stream": stream,
        "rows": (codes.rows - least[0]).to(torch.uint8),
        "columns": (codes.columns - least[1]).to(torch.uint8),
        "least": least.to(torch.int16),
        "row_classes": _packed(rows),
        "column_classes": _packed(columns),
    }


def _packed(classes: torch.Tensor) -> torch.Tensor:
    """Two classes a byte, the even one in the upper half."""
    pairs = torch.nn.functional.pad(classes, (0, len(classes) % 2)).view(-1, 2)
    return pairs[:, 0] << 4 | pairs[:, 1]


def _block_parts(blocks: Blocks) -> dict[str, torch.Tensor]:
    if blocks.offset is None:
        return {"codes8": blocks.codes, "scale8": blocks.scale}
    return {"codes4": blocks.codes, "scale4": blocks.scale, "offset4": blocks.offset}


def _streams(matrices: list[_Matrix], states: CodedStates) -> Steps[dict[str, torch.Tensor]]:
    """The entropy-coded integers by name, on the CPU."""
    streams: dict[str, torch.Tensor] = {}
    part: list[_Matrix] = []
    for index, matrix in enumerate(matrices):
        part.append(matrix)
        if index + 1 < len(matrices) and sum(m.weight.numel() for m in part) < _PART:
            continue
        coded = [Coded(m.codes.z, *m.codes.classes()) for m in part if m.codes is not None]
        for m, stream in zip(part, encode(coded, states.coded.tables), strict=True):
            streams[m.name] = stream.cpu()
        yield Progress("coding the weights", index + 1, len(matrices))
        part = []
    return streams


def _matrices(elastic: ElasticModel, plan: Plan) -> Iterator[_Matrix]:
    """The target layers and the tables, in the order of the plan's states."""
    states, layers, model = _states(elastic), elastic.elastic_layers(), elastic.model
    names, modules = module_names(model), dict(model.named_modules())
    tables = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    for name, state in zip((*layers, *states.tables), plan.states, strict=True):
        module: Any = modules[name]
        if name in layers:
            places = layers.aliases[name]
        else:
            tied = [table for table in tables if table.weight is module.weight and table is not module]
            places = (name, *(place for table in tied for place in names[table]))
        level, adapted = code_of(state) if is_coded(state) else (0, False)
        yield _Matrix(
            name,
            (name, *(place for place in places if place != name)),
            module.weight.detach(),
            states.coded.matrices[name].codes[level] if is_coded(state) else None,
            _adapter(module) if adapted else None,
        )


def _adapter(layer: ElasticLinear) -> AdapterWeights:
    assert layer.bank is not None
    return AdapterWeights(layer.bank.a.detach().cpu().float(), layer.bank.b.detach().cpu().float())


def _multiplied_out(matrix: _Matrix) -> DeferredTensor:
    codes, adapter = matrix.codes, matrix.adapter
    assert codes is not None

    def make() -> torch.Tensor:
        if adapter is None:
            return codes.matrix()
        rounded = in_eight_bits(adapter)
        return codes.matrix().cpu() + rounded.b @ rounded.a

    return DeferredTensor(torch.empty(codes.z.shape, device="meta"), make)


def _states(elastic: ElasticModel) -> CodedStates:
    assert elastic.coded is not None, "a plan of codes needs `install_codes`"
    return elastic.coded
