"""A curve of perplexity against size in a resumable run: every point is kept as soon as it is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path

import torch

from ..evaluation.curves import Curve, CurvePoint, measure_curve
from ..model.elastic_model import ElasticModel
from ..progress import Steps
from ..storage.digests import cache_key
from ..storage.resumable import ResumableRun
from ..storage.verified import listed, read_json, write_json


def measured_curve(
    elastic: ElasticModel,
    windows: torch.Tensor,
    ratios: Sequence[float],
    label: tuple[str, str, str],
    run: ResumableRun,
) -> Steps[Curve]:
    """`measure_curve`, continued from the points that an interrupted run has kept.

    Args:
        windows: (windows, length) held-out token ids.
        label: method, corpus and split, for the curve.
    """
    method, corpus, _ = label
    name = f"curve-{method}-{cache_key(corpus, length=8)}.json"
    known = run.read(name, _read_points) or {}
    keep = partial(run.write, name, known, _write_points)
    return (yield from measure_curve(elastic, windows, ratios, label, known, keep))


def _read_points(path: Path) -> dict[float, CurvePoint]:
    return {ratio: CurvePoint(*values) for ratio, values in listed(read_json(path), "points")}


def _write_points(known: dict[float, CurvePoint], path: Path) -> None:
    points = [[ratio, list(astuple(point))] for ratio, point in known.items() if math.isfinite(point.perplexity)]
    write_json(path, {"points": points}, indent=None)
