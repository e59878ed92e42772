"""Bytes that are said are bytes that are written: at random sizes, in every mode, however a model is published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from acip_core.artifacts.export import export
from acip_core.artifacts.recounting import recounted
from acip_core.evaluation.curves import Curve, CurvePoint
from acip_core.model.base_model import BaseModel
from acip_core.model.elastic_model import ElasticModel, build_elastic
from acip_core.model.quantization import at_precision, quantize
from acip_core.model.size_planner import BITS, BOTH, DIRECTIONS, Plan
from acip_core.progress import finish
from tests.support.coded import with_codes
from tests.support.exports import stored
from tests.support.tiny import generator, random_adapters, random_scores, tiny_artifact, tiny_base, tiny_factors

HALF = torch.bfloat16


def published(kind: str) -> ElasticModel:
    """A tiny model with adapters, as it is published: in float32, in 16 bits, partly wider, or only quantized."""
    base = tiny_base()
    model = base.model
    if kind in ("bfloat16", "partly wider"):
        for name, parameter in model.named_parameters():
            if kind == "bfloat16" or not name.endswith(("model.norm.weight", "layers.1.mlp.down_proj.weight")):
                parameter.data = parameter.data.bfloat16().float()
    if kind != "float32":
        base = replace(base, stored_dtype=HALF, is_dequantized=kind == "quantized")
    elastic = finish(build_elastic(base, tiny_factors(base), random_scores(base), random_adapters(base)))
    return elastic


def bytes_written(elastic: ElasticModel, plan: Plan, folder: Path, **options: Any) -> int:
    finish(export(elastic, tiny_artifact(tiny_base()), plan, folder, **options))
    return sum(tensor.nbytes for tensor in stored(folder).values())


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, DIRECTIONS) for kind in ("float32", "bfloat16", "partly wider", "quantized")),
        ("partly wider", BITS),
        ("quantized", BOTH),
    ],
)
def test_20_random_sizes(kind: str, mode: str, tmp_path: Path) -> None:
    elastic, source = published(kind), generator(7)
    base_bytes = elastic.planner.base_bytes
    if mode != DIRECTIONS:
        with_codes(elastic, adapter_rank=2 if mode == BOTH else 0)
    planner: Any = elastic.planners[mode]
    low = planner.smallest / (planner.base_target_parameters if mode == DIRECTIONS else planner.base_bytes)
    for index in range(20):
        share = 1.0 if index == 0 else low + (1 - low) * float(torch.rand((), generator=source))
        plan = planner.at_ratio(share)
        assert plan.base_bytes == base_bytes
        assert bytes_written(elastic, plan, tmp_path / f"{index}") == plan.bytes
    parameters = sum(p.numel() for p in elastic.model.parameters())
    more = sum(p.numel() for n, p in elastic.model.named_parameters() if "1.mlp.down" in n or n == "model.norm.weight")
    assert base_bytes == {"float32": 4 * parameters, "partly wider": 2 * (parameters + more)}.get(kind, 2 * parameters)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("kind", ["float32", "quantized"])
def test_20_random_sizes_of_quantized_layers(kind: str, precision: str, tmp_path: Path) -> None:
    elastic, source = published(kind), generator(8)
    quantized = finish(quantize(elastic, precision))
    for index in range(20):
        plan = elastic.planner.at_ratio(0.4 + 0.6 * float(torch.rand((), generator=source)))
        assert bytes_written(elastic, plan, tmp_path / f"{index}", quantized=quantized) == plan.bytes


def test_what_it_is_computed_in_changes_no_size() -> None:
    base = replace(tiny_base(), stored_dtype=torch.float32)
    as_published = whole(base)
    base.model.to(HALF)
    assert whole(base).base_bytes == as_published.base_bytes == 4 * as_published.base_parameters
    narrow = replace(tiny_base(), stored_dtype=HALF, is_dequantized=True)
    assert whole(narrow).base_bytes == 2 * as_published.base_parameters


def whole(base: BaseModel) -> Plan:
    return finish(build_elastic(base, tiny_factors(base), random_scores(base))).planner.at_ratio(1.0)


@pytest.mark.parametrize("kind", ["float32", "quantized"])
def test_curves_measured_before_have_the_bytes_of_their_sizes(kind: str) -> None:
    elastic = published(kind)
    plans = [elastic.planner.at_ratio(ratio) for ratio in (1.0, 0.7, 0.5)]
    points = [CurvePoint(plan.ratio, plan.parameters, 4 * plan.parameters, 30 / plan.ratio) for plan in plans]
    of_others = [replace(points[1], parameters=points[1].parameters + 7)]
    curves = [
        Curve("fisher", "c4", "held-out", 1, 30.0, tuple(points)),
        Curve("svd-llm", "c4", "held-out", 1, 30.0, tuple(of_others)),
        Curve(at_precision("fisher", "int4"), "c4", "held-out", 1, 30.0, tuple(points)),
        Curve(at_precision("svd-llm", "int4"), "c4", "held-out", 1, 30.0, tuple(of_others)),
    ]
    own, other, four, unknown = recounted(curves, elastic)
    assert [p.bytes for p in own.points] == [plan.bytes for plan in plans]
    width = 4 if kind == "float32" else 2
    assert other.points[0].bytes == width * (plans[1].parameters + 7)
    finish(quantize(elastic, "int4"))
    assert [p.bytes for p in four.points] == [elastic.planner.at_ratio(plan.ratio).bytes for plan in plans]
    assert unknown.points == tuple(of_others)
    assert [p.perplexity for p in own.points] == [p.perplexity for p in points]
    assert recounted([own], elastic) == (own,)  # whatever the precision that is open
