"""llama.cpp's types as operating points: what each costs and what a layer then loses, so that any size follows.

llama.cpp multiplies blocks of 32 weights, not entropy-coded integers, so that a size of `coded_states` written in its
types would take more bytes, and rounding what is rounded already only adds error. The original weights are therefore
quantized anew, each layer in a type of its own, in the same order of what a byte buys (`byte_planner`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES

from ..progress import Progress, Steps
from .byte_planner import BytePlanner
from .coding_moments import CodingMoments
from .elastic_model import Calibration, ElasticModel
from .operating_points import OperatingPoint, coded_state, slope
from .size_planner import DENSE, Plan

GGUF = "gguf"  # mode of the plans, whose states are the types
TYPES = (Type.Q8_0, Type.Q5_1, Type.Q5_0, Type.Q4_1, Type.IQ4_NL)  # by level; K-quants ask for widths of 256
BLOCK = 32
_LEVELS = torch.tensor(quants.IQ4_NL.kvalues, dtype=torch.float32)
_HALVES = 2 * 150  # of what a level is looked up for: no block's weight is beyond 127 / 0.85
_NEAREST = torch.bucketize(torch.arange(-_HALVES, _HALVES + 1) / 2, (_LEVELS[1:] + _LEVELS[:-1]) / 2)
_SCALES = torch.linspace(0.85, 1.15, 7)  # of the one at which a block's largest weight is a level, that are tried
_ROWS = 4096  # of a table, that are compared together


def gguf_planner(
    elastic: ElasticModel, moments: CodingMoments, exact: Mapping[str, int], other: int, calibration: Calibration
) -> Steps[BytePlanner]:
    """A planner whose sizes are bytes of a GGUF file's tensors.

    Args:
        exact: bytes of every target layer and table in a file that keeps it as published.
        other: of everything else.
        calibration: of the losses that the moments predict.
    """
    modules = dict(elastic.model.named_modules())
    points = {}
    for index, (name, whole) in enumerate(exact.items()):
        weight = modules[name].weight.detach()
        points[name] = (OperatingPoint(whole, 0.0, DENSE), *_points(name, weight, moments, whole))
        yield Progress("trying llama.cpp's types", index + 1, len(exact))
    return BytePlanner(
        points,
        tables=sum(name in moments.tables for name in exact),
        other_bytes=other,
        base_bytes=elastic.planner.base_bytes,
        parameters=sum(p.numel() for p in elastic.model.parameters()),
        target_parameters=elastic.planner.base_target_parameters,
        mode=GGUF,
        measured=calibration,
    )


def filled(planner: BytePlanner, size: float) -> Plan:
    """The best plan of at most `size` bytes, and what its next step leaves spent on later, smaller ones.

    An embedding is one large step in which many files would have to stop.

    Raises:
        SizeError: as `BytePlanner.at_bytes`.
    """
    plan, hulls = planner.at_bytes(size), list(planner.hulls.values())
    at = [[point.state for point in hull].index(state) for hull, state in zip(hulls, plan.states, strict=True)]
    room = size - plan.bytes
    steps = sorted(
        (-slope(hull[k], hull[k + 1]), layer, k + 1) for layer, hull in enumerate(hulls) for k in range(len(hull) - 1)
    )
    for _, layer, k in steps:
        cost = hulls[layer][k].bytes - hulls[layer][k - 1].bytes
        if at[layer] == k - 1 and cost <= room:
            at[layer], room = k, room - cost
    points = [hull[k] for hull, k in zip(hulls, at, strict=True)]
    states, layers = tuple(point.state for point in points), len(plan.ranks)
    held = planner.other_bytes + sum(point.bytes for point in points)
    loss = sum(point.loss for point in points)
    return replace(plan, ranks=states[:layers], tables=states[layers:], bytes=held, loss=loss)


def type_bytes(kind: Type, weights: int) -> int:
    """Bytes of so many weights."""
    block, size = GGML_QUANT_SIZES[kind]
    return weights // block * size


def quantized(weight: torch.Tensor, kind: Type, importance: torch.Tensor | None = None) -> np.ndarray:
    """A weight (m, n) in a type, uint8 (m, bytes of a row).

    Args:
        importance: (n,), what an error in each column costs, where the type's scales are searched for.
    """
    if kind != Type.IQ4_NL:
        return quants.quantize(np.ascontiguousarray(weight.float().cpu().numpy()), kind)
    return _four_bit_levels(weight.float().cpu(), importance)


def column_importance(name: str, moments: CodingMoments) -> torch.Tensor:
    """What an error in each column of a weight costs, (n,)."""
    return _moment_of_inputs(name, moments).diagonal()


def _points(name: str, weight: torch.Tensor, moments: CodingMoments, whole: int) -> list[OperatingPoint]:
    """Of all types that take fewer bytes than the layer as published."""
    if weight.shape[1] % BLOCK:
        return []
    inputs = _moment_of_inputs(name, moments)
    importance, loss = inputs.diagonal(), _loss_of(name, moments, inputs.to(weight.device))
    points = []
    for level, kind in enumerate(TYPES):
        if (size := type_bytes(kind, weight.numel())) >= whole:
            continue
        data = quantized(weight, kind, importance)
        off = weight.float() - torch.from_numpy(quants.dequantize(data, kind).copy()).to(weight.device)
        points.append(OperatingPoint(size, loss(off), coded_state(level, False)))
    return points


def _moment_of_inputs(name: str, moments: CodingMoments) -> torch.Tensor:
    moment = moments.tables[name].rows if name in moments.tables else moments.inputs[name]
    return moment.root().matrix()


def _loss_of(name: str, moments: CodingMoments, inputs: torch.Tensor) -> Callable[[torch.Tensor], float]:
    """tr(G D C Dᵀ) of an error D of a weight; of a table, with a weight for each row instead of G.

    Args:
        inputs: C (n, n).
    """
    if name not in moments.tables:
        gradients = moments.gradients[name].root().to(inputs.device).matrix()
        return lambda off: float(((gradients @ off) * (off @ inputs)).sum())
    weights = moments.tables[name].weights.to(inputs.device)

    def loss(off: torch.Tensor) -> float:
        parts = zip(off.split(_ROWS), weights.split(_ROWS), strict=True)
        return sum(float((((part @ inputs) * part).sum(1) * w).sum()) for part, w in parts)

    return loss


@torch.no_grad()
def _four_bit_levels(weight: torch.Tensor, importance: torch.Tensor | None) -> np.ndarray:
    """IQ4_NL: a block's weights are d times one of 16 levels; of several d, the one that costs least, refitted."""
    blocks = weight.view(-1, BLOCK)
    cost = torch.ones(BLOCK) if importance is None else importance.clamp_min(1e-30).view(-1, BLOCK)
    cost = cost.expand(len(weight), -1, -1).reshape(-1, BLOCK) if importance is not None else cost.expand_as(blocks)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))  # with its sign: level −127 is the largest
    best, codes, scales = torch.full((len(blocks), 1), torch.inf), torch.zeros_like(blocks, dtype=torch.uint8), largest
    codes_of, levels_of, whole = (
        _NEAREST.to(torch.uint8),
        _LEVELS[_NEAREST],
        (cost * blocks * blocks).sum(1, keepdim=True),
    )
    for factor in _SCALES:
        scale = factor * largest / _LEVELS[0]
        # All bounds between levels are halves, so a table knows each level; a search takes sixteen times as long.
        halves = (2 * blocks / torch.where(scale == 0, 1, scale)).ceil_().clamp_(-_HALVES, _HALVES)
        place = halves.add_(_HALVES).int().view(-1)
        index, level = (table.index_select(0, place).view_as(blocks) for table in (codes_of, levels_of))
        product, square = (cost * level * blocks).sum(1, keepdim=True), (cost * level * level).sum(1, keepdim=True)
        lost = whole - product * product / square
        better = lost < best
        best, scales = torch.where(better, lost, best), torch.where(better, product / square, scales)
        codes = torch.where(better, index, codes)
    halves = codes[:, : BLOCK // 2] | codes[:, BLOCK // 2 :] << 4
    data = torch.cat([scales.half().view(torch.uint8), halves], 1)
    return data.view(len(weight), -1).numpy()
