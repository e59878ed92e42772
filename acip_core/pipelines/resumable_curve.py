"""A curve of perplexity against size in a resumable run, and how close its sizes are to the full model.

Every point is kept as soon as it is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ..evaluation.curves import Curve, measure_curve
from ..evaluation.fidelity import full_logits, measure_fidelity
from ..model.elastic_model import ElasticModel
from ..progress import Steps
from ..storage.digests import cache_key
from ..storage.resumable import ResumableRun
from ..storage.verified import listed, read_json, write_json

FIDELITY_WINDOWS = 8  # of a curve's text; the full model's logits of all of it would fill a memory


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
    known = run.read(name, _read_losses) or {}
    keep = partial(run.write, name, known, _write_losses)
    return (yield from measure_curve(elastic, windows, ratios, label, known, keep))


def with_fidelity(elastic: ElasticModel, windows: torch.Tensor, curve: Curve, run: ResumableRun) -> Steps[Curve]:
    """A curve with divergence and agreement at its points, of the first `FIDELITY_WINDOWS` windows.

    Args:
        windows: (windows, length) token ids, those that the curve was measured on.
        run: keeps every point.
    """
    windows, points = windows[:FIDELITY_WINDOWS], []
    teacher: torch.Tensor | None = None
    for point in curve.points:
        name = f"fidelity-{curve.method}-{cache_key(curve.corpus, point.ratio)}.json"
        found = run.read(name, _read_fidelity)
        if found is None:
            if teacher is None:
                teacher, _ = yield from full_logits(elastic.model, windows, curve.corpus)
            with elastic.on_this_thread(elastic.planner.at_ratio(point.ratio)):
                label = f"comparing {point.ratio:.0%} with 100 %, {curve.corpus}"
                measured = yield from measure_fidelity(elastic.model, windows, teacher, label)
            found = max(measured.divergence, 0.0), measured.agreement  # its rounding can fall below 0
            run.write(name, found, _write_fidelity)
        points.append(replace(point, divergence=found[0], agreement=found[1]))
    return replace(curve, points=tuple(points))


def _read_fidelity(path: Path) -> tuple[float, float]:
    divergence, agreement = listed(read_json(path), "fidelity")
    return float(divergence), float(agreement)


def _write_fidelity(found: tuple[float, float], path: Path) -> None:
    write_json(path, {"fidelity": list(found)})


def _read_losses(path: Path) -> dict[float, tuple[float, ...]]:
    return {ratio: tuple(map(float, losses)) for ratio, losses in listed(read_json(path), "losses")}


def _write_losses(known: dict[float, tuple[float, ...]], path: Path) -> None:
    finite = [[ratio, list(losses)] for ratio, losses in known.items() if all(map(math.isfinite, losses))]
    write_json(path, {"losses": finite}, indent=None)
