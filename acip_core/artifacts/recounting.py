"""The bytes of measured sizes, counted as exports of the opened model are written now.

A curve keeps the bytes that its sizes had when they were measured; older ones are of the type that the model ran in,
which says nothing about its file. What was measured stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..errors import PrecisionError, SizeError
from ..evaluation.curves import Curve, CurvePoint
from ..model.elastic_model import ElasticModel
from ..model.quantization import PRECISIONS, at_precision, precision
from ..model.size_planner import SizePlanner


def recounted(curves: Iterable[Curve], elastic: ElasticModel) -> tuple[Curve, ...]:
    """The curves with the bytes that their sizes have; points of other models are left as they are."""
    planners: dict[str, SizePlanner | None] = {}
    new = []
    for curve in curves:
        name = next((p for p in PRECISIONS if curve.method.endswith(at_precision("", p))), "")
        if name not in planners:
            planners[name] = _planner(elastic, name)
        new.append(replace(curve, points=tuple(_point(point, planners[name], not name) for point in curve.points)))
    return tuple(new)


def _planner(elastic: ElasticModel, name: str) -> SizePlanner | None:
    """Of the model at a precision, full where it has no name; None where that precision cannot be had here."""
    if not name:
        return elastic.planner_for(elastic.adapter_rank)
    try:
        chosen = precision(name, (width for shape in elastic.elastic_layers().shapes.values() for width in shape))
    except PrecisionError:
        return None
    return elastic.planner_for(elastic.adapter_rank, chosen.storage)


def _point(point: CurvePoint, planner: SizePlanner | None, is_full: bool) -> CurvePoint:
    if planner is None:
        return point
    try:
        plan = planner.at_parameters(point.parameters)
    except SizeError:
        return point
    if plan.parameters == point.parameters:
        return replace(point, bytes=plan.bytes)
    return replace(point, bytes=planner.bytes_of(point.parameters)) if is_full else point
