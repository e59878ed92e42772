"""What an artifact holds for sizes in bytes: moments for the codes, their adapters, and what was measured of them.

coding.json          calibration, measured curves, length and SHA-256 of the files below; sealed
coding.safetensors   moments (`model/coding_moments.py`)
coding_adapters.safetensors   adapters of coded layers, absent when none were trained

An artifact without them is whole: it has the mode `directions` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..model.coding_moments import CodingMoments, read_coding_moments, save_coding_moments
from ..model.elastic_model import AdapterWeights, Calibration
from ..model.second_moments import Basis
from ..model.size_planner import MODES
from ..storage.atomic import atomic_path
from ..storage.digests import check_regular, file_digest
from ..storage.verified import (
    check_floats,
    parse_dataclass,
    read_json,
    read_tensors,
    reporting_damage,
    save_tensors,
    write_json,
)

CODING, MOMENTS, ADAPTERS = CODING_FILES = ("coding.json", "coding.safetensors", "coding_adapters.safetensors")


@dataclass(frozen=True)
class CodedPoint:
    """What was measured at one size in bytes.

    Attributes:
        bytes: of the whole model; ratio: of those published.
        predicted: rise of the loss, nats per token, before calibration.
        perplexity: of held-out text.
        divergence: KL from the full model, nats per token; agreement: share of tokens with the same likeliest one.
        facts: share of the facts kept that the full model knows; None where it was not measured.
        error: as `curves.CurvePoint`.
    """

    bytes: int
    ratio: float
    predicted: float
    perplexity: float
    divergence: float
    agreement: float
    facts: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class CodedCurve:
    """Measured points of one mode on one corpus, the largest first."""

    mode: str
    corpus: str
    tokens: int
    base_perplexity: float
    points: tuple[CodedPoint, ...]


@dataclass(frozen=True)
class Coding:
    """What an artifact holds for sizes in bytes.

    Attributes:
        fingerprint: of the weights that the moments were measured with.
        adapters: of coded layers; None when none were trained.
        settings: how they were made, plain values.
    """

    fingerprint: str
    moments: CodingMoments
    calibration: Calibration
    curves: tuple[CodedCurve, ...]
    adapters: dict[str, AdapterWeights] | None
    settings: dict[str, Any]


def write_coding(coding: Coding, folder: Path, basis: Basis, gradients: Basis | None = None) -> None:
    """Write the files into an artifact's folder; `coding.json`, which names the others' digests, last.

    A former one goes before any is replaced: killed in between, the artifact has no codes, which can be added again.

    Args:
        basis, gradients: of the artifact, which holds these moments.

    Raises:
        StorageError: the folder cannot be written.
    """
    with ExitStack() as replaced:  # all are written before any is put in its place, the one that is opened first last
        paths = {name: replaced.enter_context(atomic_path(folder / name)) for name in _written(coding)}
        save_coding_moments(coding.moments, paths[MOMENTS], basis, gradients)
        if coding.adapters is not None:
            named = {f"{name}.{part}": getattr(a, part) for name, a in coding.adapters.items() for part in "ab"}
            save_tensors({name: tensor.half() for name, tensor in named.items()}, paths[ADAPTERS])
        tensors = {name: path for name, path in paths.items() if name != CODING}
        content = {
            "fingerprint": coding.fingerprint,
            "calibration": asdict(coding.calibration),
            "curves": [asdict(curve) for curve in coding.curves],
            "settings": coding.settings,
            "files": {n: {"bytes": check_regular(path), "sha256": file_digest(path)} for n, path in tensors.items()},
        }
        write_json(paths[CODING], content, indent=1)
        (folder / CODING).unlink(missing_ok=True)


def _written(coding: Coding) -> tuple[str, ...]:
    return CODING_FILES if coding.adapters is not None else (CODING, MOMENTS)


def read_coding(folder: Path, basis: Basis, gradients: Basis | None = None) -> Coding | None:
    """What `write_coding` wrote; None where there is nothing of it.

    Raises:
        ArtifactError: a file is missing, damaged or of another artifact; the message names it.
    """
    if not (folder / CODING).exists():
        return None
    way_out = "restore it, or make it again with `python -m acip_core codes`"
    with reporting_damage(folder / CODING, way_out):
        content = read_json(folder / CODING, sealed=True)
        calibration = parse_dataclass(Calibration, content["calibration"])
        curves = tuple(_curve(entry) for entry in content["curves"])
        files: Mapping[str, Any] = content["files"]
        if not {MOMENTS} <= files.keys() <= {MOMENTS, ADAPTERS}:
            raise ValueError("it names other files than its own")
    for name, stated in files.items():
        with reporting_damage(folder / name, way_out):
            if check_regular(folder / name) != stated["bytes"] or file_digest(folder / name) != stated["sha256"]:
                raise ValueError("it is another one than was written")
    with reporting_damage(folder / MOMENTS, way_out):
        moments = read_coding_moments(folder / MOMENTS, basis, gradients)
    adapters = _adapters(folder / ADAPTERS, moments, way_out) if ADAPTERS in files else None
    return Coding(content["fingerprint"], moments, calibration, curves, adapters, content["settings"])


def _curve(entry: dict[str, Any]) -> CodedCurve:
    points = tuple(parse_dataclass(CodedPoint, {"error": None, **point}) for point in entry["points"])
    curve = parse_dataclass(CodedCurve, {**entry, "points": points})
    if curve.mode not in MODES or not all(p.bytes > 0 and p.perplexity > 0 and (p.error or 0) >= 0 for p in points):
        raise ValueError(f"the curve of {curve.mode}, {curve.corpus} is malformed")
    return curve


def _adapters(path: Path, moments: CodingMoments, way_out: str) -> dict[str, AdapterWeights]:
    adapters = {}
    with reporting_damage(path, way_out):
        tensors, _ = read_tensors(path)
        for name, moment in moments.inputs.items():
            a, b = tensors[f"{name}.a"], tensors[f"{name}.b"]
            check_floats(name, a, 2)
            check_floats(name, b, 2)
            if a.shape != (b.shape[1], len(moment.scale)):
                raise ValueError(f"the adapter of '{name}' does not fit its layer")
            adapters[name] = AdapterWeights(a.float(), b.float())
    return adapters


def rounded_adapter(weights: AdapterWeights) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """An adapter in 8 bits as exports store it: int8 a (rank, n) and b (m, rank), float16 scales (rank,) of each."""
    parts = []
    for matrix, across in ((weights.a, 1), (weights.b, 0)):
        scale = (matrix.abs().amax(across) / 127).half().clamp_min(2**-24)
        wide = scale.float()[:, None] if across else scale.float()
        parts += [(matrix / wide).round().clamp(-127, 127).to(torch.int8), scale]
    return parts[0], parts[2], parts[1], parts[3]


def in_eight_bits(weights: AdapterWeights) -> AdapterWeights:
    """An adapter as exports compute with it."""
    a, b, a_scale, b_scale = rounded_adapter(weights)
    return AdapterWeights(a.float() * a_scale.float()[:, None], b.float() * b_scale.float())
