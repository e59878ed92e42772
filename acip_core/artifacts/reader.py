"""An artifact read and validated: every file's digest, every name, shape, type and number."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import ArtifactError
from ..evaluation.curves import Curve, CurvePoint
from ..evaluation.methods import current_label
from ..model.elastic_model import AdapterWeights
from ..model.second_moments import GRADIENT, Basis, read_basis
from ..model.trained_factors import FactorUpdate, read_updates
from ..paths import local_path
from ..storage.atomic import recover
from ..storage.digests import check_regular, file_digest
from ..storage.verified import (
    check_floats,
    parse_dataclass,
    read_json,
    read_tensors,
    reporting_damage,
)
from .artifact import FILES, FORMAT_VERSION, PEFT_PREFIX, Artifact

log = logging.getLogger("acip")


_WITHOUT_DIGESTS = 1


_RESTORE = "restore the artifact or precompute again"


def read_artifact(folder: Path) -> Artifact:
    """Read and validate an artifact.

    Raises:
        ArtifactError: a file is missing, truncated, of another format version, differs from what was written, or holds
            wrong shapes or values; the message names the file and the field.
    """
    folder = local_path(folder)
    recover(folder)
    description = read_description(folder / "acip.json")
    if description["format_version"] == _WITHOUT_DIGESTS:
        log.warning("The artifact %s has no digests; `python -m acip_core renew %s` adds them.", folder, folder)
    files = description.get("files", {})
    _check_files(folder, files)
    scores = _read_scores(folder / "scores.safetensors")
    basis, gradients = _read_basis(folder / "basis.safetensors", set(scores))
    recipe = description["recipe"]
    adapters = _read_peft(folder, set(scores)) if recipe.get("adapters") is not None else None
    is_trained = recipe.get("factors") or recipe.get("blocks")
    updates = _read_updates(folder / "factors.safetensors", basis, gradients) if is_trained else None
    with reporting_damage(folder / "acip.json", "field 'curves' is malformed; restore the file"):
        curves = tuple(_curve(entry, recipe) for entry in description["curves"])
    return Artifact(
        name=description["name"],
        source=description["source"],
        fingerprint=description["fingerprint"],
        recipe=recipe,
        curves=curves,
        scores=scores,
        basis=basis,
        adapters=adapters,
        history=_read_history(folder / "history.safetensors") if "history.safetensors" in files or adapters else {},
        gradients=gradients,
        updates=updates,
    )


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, stated in files.items():
        renewal = f", or run `python -m acip_core renew {folder}` if you edited it" if name == "README.md" else ""
        with reporting_damage(folder / name, _RESTORE + renewal):
            if check_regular(folder / name) != stated["bytes"]:
                raise ValueError("it has another length than was written")
            if file_digest(folder / name) != stated["sha256"]:
                raise ValueError("its SHA-256 is another one than was written")


def _curve(entry: dict[str, Any], recipe: Mapping[str, Any]) -> Curve:
    unmeasured = {"divergence": None, "agreement": None, "error": None}  # of artifacts before they were
    points = tuple(parse_dataclass(CurvePoint, {**unmeasured, **point}) for point in entry["points"])
    curve = parse_dataclass(Curve, {**entry, "method": current_label(entry["method"], recipe), "points": points})
    numbers = [curve.tokens, curve.base_perplexity, *(value for point in points for value in _sizes_of(point))]
    for value in numbers:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{value!r} in {curve.method}, {curve.corpus}")
    if not curve.points:
        raise ValueError(f"no points in {curve.method}, {curve.corpus}")
    for point in points:
        if not ((point.divergence or 0) >= 0 and 0 <= (point.agreement or 0) <= 1):
            raise ValueError(f"divergence or agreement in {curve.method}, {curve.corpus}")
        if not (math.isfinite(point.error or 0) and (point.error or 0) >= 0):
            raise ValueError(f"error in {curve.method}, {curve.corpus}")
    return curve


def _sizes_of(point: CurvePoint) -> tuple[float, ...]:
    return point.ratio, point.parameters, point.bytes, point.perplexity


def read_description(path: Path, checked: bool = True) -> dict[str, Any]:
    """What `acip.json` says, its fields of the right types.

    Args:
        checked: False reads a file whose digest is not its own.
    """
    if not os.path.lexists(path):
        raise ArtifactError(f"No artifact at {path.parent}; make one with `python -m acip_core precompute --quick`.")
    with reporting_damage(path, "restore the file"):
        description = read_json(path, checked=checked)
        version = description.get("format_version")
        if version == FORMAT_VERSION and checked:
            read_json(path, sealed=True)
        wrong = [field for field, fits in _FIELDS.items() if not fits(description.get(field))]
        wrong = wrong or [key for key, fits in _RECIPE.items() if not fits(description["recipe"].get(key))]
        if not wrong and version == FORMAT_VERSION and not _are_files(description.get("files")):
            wrong = ["files"]
    if version not in (FORMAT_VERSION, _WITHOUT_DIGESTS):
        raise ArtifactError(
            f"{path}: format_version is {version!r}, this program reads {FORMAT_VERSION}; precompute again."
        )
    if wrong:
        raise ArtifactError(f"{path}: field '{wrong[0]}' is missing or malformed; restore the file.")
    return description


def _are_patterns(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(pattern, str) for pattern in value))


def _is_count(value: object) -> bool:
    return value is None or (type(value) is int and 0 < value < 2**31)


def _are_files(value: object) -> bool:
    """Whether it names only files of an artifact, each with length and digest; no path out of the folder is one."""
    if not (isinstance(value, dict) and {"scores.safetensors", "basis.safetensors"} <= value.keys() <= set(FILES)):
        return False
    return all(isinstance(stated, dict) and stated.keys() == {"bytes", "sha256"} for stated in value.values())


_FIELDS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("name", "source", "fingerprint"), lambda value: isinstance(value, str)),
    "recipe": lambda value: isinstance(value, dict),
    "curves": lambda value: isinstance(value, list),
}


_RECIPE: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("include", "exclude", "corpora"), _are_patterns),
    "window": _is_count,
    "quantized": lambda value: value is None or isinstance(value, str),
    "pivoted": lambda value: value is None or isinstance(value, bool),
    **dict.fromkeys(("adapters", "factors", "blocks"), lambda value: value is None or isinstance(value, dict)),
}


def _read_scores(path: Path) -> dict[str, torch.Tensor]:
    with reporting_damage(path, _RESTORE):
        tensors, _ = read_tensors(path)
        for name, scores in tensors.items():
            check_floats(name, scores, 1)
    return {name: scores.float() for name, scores in tensors.items()}


def _read_history(path: Path) -> dict[str, torch.Tensor]:
    with reporting_damage(path, _RESTORE):
        tensors, _ = read_tensors(path)
        for name, values in tensors.items():
            if values.dtype not in (torch.int64, torch.int32, torch.int16):
                check_floats(name, values, values.ndim)
    return tensors


def _read_basis(path: Path, layers: set[str]) -> tuple[Basis, Basis | None]:
    with reporting_damage(path, _RESTORE):
        basis, gradients = read_basis(path)
        if set(basis) != layers or (gradients is not None and set(gradients) != layers):
            raise ValueError("it and scores.safetensors name different layers")
        for moment in (*basis.values(), *(gradients or {}).values()):
            name = moment.layers[0]
            check_floats(f"{name}.scale", moment.scale, 1)
            check_floats(f"{name}.columns", moment.columns, 1)
            fits = moment.factor.shape == (*moment.scale.shape, *moment.columns.shape)
            sides = ("input", GRADIENT) if gradients is not None else ("input", "output")
            if not (fits and moment.side in sides and moment.factor.dtype == torch.int8):
                raise ValueError(f"the moment of '{name}' is malformed")
    return basis, gradients


def _read_updates(path: Path, basis: Basis, gradients: Basis | None) -> dict[str, FactorUpdate]:
    with reporting_damage(path, _RESTORE):
        if gradients is None:
            raise ValueError("basis.safetensors lacks the moments of gradients, which trained factors need")
        return read_updates(path, {name: (len(gradients[name].scale), len(basis[name].scale)) for name in basis})


def _read_peft(folder: Path, layers: set[str]) -> dict[str, AdapterWeights]:
    config = folder / "adapter_config.json"
    with reporting_damage(config, "restore it"):
        settings = read_json(config)
        rank, scaling = settings["r"], settings["lora_alpha"] / settings["r"]
        if not (type(rank) is int and math.isfinite(scaling)):
            raise ValueError(f"r is {rank!r:.40}, lora_alpha is {settings['lora_alpha']!r:.40}")
    path = folder / "adapter_model.safetensors"
    adapters = {}
    with reporting_damage(path, _RESTORE):
        tensors, _ = read_tensors(path)
        for name in sorted(layers):
            parts = [tensors.get(f"{PEFT_PREFIX}{name}.lora_{part}.weight") for part in "AB"]
            if parts[0] is None or parts[1] is None:
                raise ValueError(f"it holds no adapter for the layer '{name}'")
            a, b = parts[0], parts[1]  # (rank, in_features), (out_features, rank)
            if a.shape[:1] + b.shape[1:] != (rank, rank):
                raise ValueError(f"the adapter of '{name}' does not have rank {rank}")
            check_floats(name, a, 2)
            check_floats(name, b, 2)
            adapters[name] = AdapterWeights(a.float(), b.float() * scaling)
    return adapters
