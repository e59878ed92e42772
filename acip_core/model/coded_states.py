"""Codes as states of an elastic model: banks in its layers and tables, and planners that spend bytes on them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .byte_planner import BytePlanner
from .code_cache import CodedModel
from .coded_layers import CodeBank, CodedEmbedding, CodedHead
from .elastic_model import AdapterWeights, Calibration, CodedStates, ElasticModel
from .operating_points import OperatingPoint, coded_state
from .published import published_blocks
from .published_types import footprint, published_bytes
from .size_planner import BITS, BOTH, DENSE


def coded_matrices(elastic: ElasticModel, tables: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """The weights that codes are made of, by name: of the target layers, then of the tables."""
    modules = dict(elastic.model.named_modules())
    return {name: modules[name].weight.detach() for name in (*elastic.elastic_layers(), *tables)}


def install_codes(elastic: ElasticModel, coded: CodedModel, calibration: Calibration = Calibration()) -> CodedStates:
    """Make codes states of the target layers, of the embedding and of the head; sizes in bytes follow from them.

    Args:
        coded: of every target layer, and of the tables that have codes.
    """
    layers = elastic.elastic_layers()
    exact = {}
    for name, weight in _weights(elastic, coded).items():
        blocks = published_blocks(weight.float())
        exact[name] = published_bytes(f"{name}.weight", weight, elastic.base) if blocks is None else blocks.bytes
    for name, layer in layers.items():
        layer.bank = CodeBank(coded.matrices[name].codes, layer.weight)
    states = CodedStates(coded, calibration, _install_tables(elastic, coded), exact)
    elastic.coded = states
    _plan(elastic, states, 0)
    return states


def install_coded_adapters(elastic: ElasticModel, adapters: Mapping[str, AdapterWeights]) -> None:
    """Put the adapters that were trained for coded layers beside their codes; `both` may spend bytes on them."""
    for name, layer in elastic.elastic_layers().items():
        assert layer.bank is not None
        layer.bank.a, layer.bank.b = adapters[name].a.to(layer.weight), adapters[name].b.to(layer.weight)
    assert elastic.coded is not None
    _plan(elastic, elastic.coded, len(next(iter(adapters.values())).a))


def adapter_bytes(m: int, n: int, rank: int) -> int:
    """Bytes of a coded layer's adapter in a file: one for each number, two for a scale of each row and column."""
    return rank * (m + n) + 4 * rank


def byte_planner(elastic: ElasticModel, states: CodedStates, mode: str, adapter_rank: int) -> BytePlanner:
    """A planner over the codes, with adapters of a rank where that is not 0."""
    layers, modules = elastic.elastic_layers(), dict(elastic.model.named_modules())
    points = {}
    for name, exact in states.exact.items():
        matrix = states.coded.matrices[name]
        m, n = matrix.codes[0].z.shape
        points[name] = [OperatingPoint(exact, 0.0, DENSE)]
        for level, (size, loss) in enumerate(zip(matrix.bytes, matrix.losses, strict=True)):
            points[name].append(OperatingPoint(size, loss, coded_state(level, False)))
            if adapter_rank and name in layers:
                left, more = loss * states.calibration.repaired, adapter_bytes(m, n, adapter_rank)
                points[name].append(OperatingPoint(size + more, left, coded_state(level, True)))
    return BytePlanner(
        {name: tuple(of_layer) for name, of_layer in points.items()},
        tables=len(states.tables),
        other_bytes=footprint(elastic.base, {name: modules[name] for name in states.exact}).other_bytes,
        code_bytes=states.coded.tables.tensor().nbytes,
        base_bytes=elastic.planner.base_bytes,
        parameters=sum(p.numel() for p in elastic.model.parameters()),
        target_parameters=elastic.planner.base_target_parameters,
        mode=mode,
        measured=states.calibration,
    )


def _plan(elastic: ElasticModel, states: CodedStates, adapter_rank: int) -> None:
    elastic.planners[BITS] = byte_planner(elastic, states, BITS, 0)
    elastic.planners[BOTH] = byte_planner(elastic, states, BOTH, adapter_rank)


def _weights(elastic: ElasticModel, coded: CodedModel) -> dict[str, torch.Tensor]:
    modules = dict(elastic.model.named_modules())
    return {name: modules[name].weight.detach() for name in coded.matrices}


def _install_tables(elastic: ElasticModel, coded: CodedModel) -> tuple[str, ...]:
    """Make the embedding and the head run codes; where they are one matrix, the same ones."""
    names = {id(module): name for name, module in elastic.model.named_modules()}
    head = elastic.model.get_output_embeddings()
    found: dict[int, tuple[str, CodeBank]] = {}
    for module, cls in ((elastic.model.get_input_embeddings(), CodedEmbedding), (head, CodedHead)):
        if not isinstance(module, nn.Embedding | nn.Linear):
            continue
        if id(module.weight) not in found:
            if (name := names[id(module)]) not in coded.matrices:
                continue
            found[id(module.weight)] = name, CodeBank(coded.matrices[name].codes, module.weight)
        index = len(elastic.elastic_layers()) + list(found).index(id(module.weight))
        module.__dict__.update(index=index, cut=elastic.cut)
        module.bank = found[id(module.weight)][1]
        if not isinstance(module, cls):  # last, for the model may run; not again with another calibration
            module.__class__ = type(cls.__name__, (cls, type(module)), {}) if cls is CodedEmbedding else cls
    return tuple(name for name, _ in found.values())
