"""What lies in `precomputed/<model>/`: write it, read it, refuse anything damaged with one sentence.

acip.json                 format version, model and fingerprint, recipe, library versions, measured curves, and length
                          and SHA-256 of the files below
scores.safetensors        one vector (r,) per layer
basis.safetensors         what rebuilds the basis of the factorization (`basis`)
adapter_config.json       PEFT's LoRA format, absent when no adapters were trained
adapter_model.safetensors
history.safetensors       loss and size ratio per adapter step, absent likewise
README.md                 model card

Beside these lie what other commands measured or made of it: `completions.json`, `comparison.json`, `ablation.json`,
`evaluation.json`. Every JSON file but PEFT's has its own digest (`files`). Format 1 had no digests; it is read.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .basis import Basis, read_basis, save_basis
from .card import hub_name, model_card
from .elastic import AdapterWeights
from .errors import ArtifactError
from .files import built, check_floats, check_regular, damage_told, file_digest, read_json, read_tensors, write_json
from .paths import artifact_homes, artifacts_home
from .storage import atomic_path, entries, recover

log = logging.getLogger("acip")
FORMAT_VERSION = 2
_WITHOUT_DIGESTS = 1
_RESTORE = "restore the artifact or precompute again"
_PEFT_PREFIX = "base_model.model."
_FILES = (
    "scores.safetensors", "basis.safetensors", "adapter_config.json", "adapter_model.safetensors",
    "history.safetensors", "README.md",
)  # fmt: skip
_OF_OTHER_COMMANDS = ("comparison.json", "ablation.json", "evaluation.json")  # they cost hours


@dataclass(frozen=True)
class CurvePoint:
    """Perplexity at one size: `ratio` counts adapters, `parameters` and `bytes` are the whole model's."""

    ratio: float
    parameters: int
    bytes: int
    perplexity: float


@dataclass(frozen=True)
class Curve:
    """Perplexity against size of one method on one corpus.

    Attributes:
        tokens: predicted tokens measured per point.
        base_perplexity: of the base model on the same text.
    """

    method: str
    corpus: str
    split: str
    tokens: int
    base_perplexity: float
    points: tuple[CurvePoint, ...]

    def at(self, ratio: float) -> float | None:
        """Perplexity at a size ratio, linear in its logarithm between measured points; None outside them.

        A measured point counts as reached within half a thousandth, for cuts hit their targets within one direction.
        """
        points = sorted(self.points, key=lambda point: point.ratio)
        for point in points:
            if abs(point.ratio - ratio) < 5e-4:
                return point.perplexity
        for low, high in pairwise(points):
            if low.ratio <= ratio <= high.ratio:
                share = (ratio - low.ratio) / (high.ratio - low.ratio)
                return math.exp((1 - share) * math.log(low.perplexity) + share * math.log(high.perplexity))
        return None


def own_curves(curves: Sequence[Curve]) -> list[Curve]:
    """The curves of the artifact's own method, one per corpus: the first in the artifact and its like."""
    return [curve for curve in curves if curve.method == curves[0].method]


@dataclass(frozen=True)
class Artifact:
    """A score map with all that belongs to it.

    Attributes:
        name, source, fingerprint: the base model it was made from.
        recipe: how it was made, plain values.
        scores: (r,) per layer.
        adapters: per layer, PEFT's scaling multiplied into b; None when none were trained.
        history: named vectors over the adapter training steps.
    """

    name: str
    source: str
    fingerprint: str
    recipe: dict[str, Any]
    curves: tuple[Curve, ...]
    scores: dict[str, torch.Tensor]
    basis: Basis
    adapters: dict[str, AdapterWeights] | None
    history: dict[str, torch.Tensor]

    @property
    def include(self) -> tuple[str, ...]:
        """Patterns of the layers that are compressed, as `targets.target_layers`; none stands for all."""
        return tuple(self.recipe.get("include", ()))

    @property
    def exclude(self) -> tuple[str, ...]:
        """Patterns of the layers that are not."""
        return tuple(self.recipe.get("exclude", ()))


def default_artifact(name: str) -> Path:
    """Where the artifact of a model is, of all places where artifacts are looked for, or would be written."""
    for home in artifact_homes():
        recover(home / name)
        if (home / name / "acip.json").exists():
            return home / name
    return artifacts_home() / name


def write_artifact(artifact: Artifact, folder: Path, also: Callable[[Path], object] | None = None) -> None:
    """Write all files, replacing an older artifact only when the new one is complete.

    What `compare`, `ablate` and `evaluate` measured on the same model stays in the folder.

    Args:
        also: writes further files of this artifact into the folder it is given.

    Raises:
        ArtifactError: something else is at that place.
        StorageError: the folder cannot be written.
    """
    check_replaceable(folder)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        _write_files(artifact, temporary)
        if also is not None:
            also(temporary)
        for name in _OF_OTHER_COMMANDS if _fingerprint(folder) == artifact.fingerprint else ():
            if (folder / name).is_file():
                shutil.copy(folder / name, temporary / name)


def _fingerprint(folder: Path) -> str | None:
    """Of the model that an artifact was made from; None where there is none that can be read."""
    try:
        return _read_description(folder / "acip.json")["fingerprint"]
    except ArtifactError:
        return None


def check_replaceable(folder: Path) -> None:
    """Refuse to replace anything that is not an artifact or an empty folder.

    Raises:
        ArtifactError: something else is at that place.
    """
    folder = folder.expanduser()
    names = entries(folder)
    if (names and "acip.json" not in names) or (folder.exists() and not folder.is_dir()):
        raise ArtifactError(f"{folder} holds other files; name a new folder for the artifact.")


def check_owner(folder: Path, owned: Callable[[str, Sequence[str], Sequence[str]], bool], replace: bool) -> None:
    """Refuse to replace the artifact of other weights.

    Args:
        owned: whether a fingerprint over the layers of some patterns (include, exclude) is that of the own weights.
        replace: allow it.

    Raises:
        ArtifactError: such an artifact is there, or one that cannot be read, or `check_replaceable` says so.
    """
    check_replaceable(folder)
    if replace or "acip.json" not in entries(folder.expanduser()):
        return
    way_out = "name another folder with --out, or replace it with --replace"
    with damage_told(folder / "acip.json", way_out):
        try:
            found = _read_description(folder.expanduser() / "acip.json")
        except ArtifactError as error:
            raise ValueError("it does not say whose it is") from error
    recipe = found["recipe"]
    if not owned(found["fingerprint"], recipe.get("include", ()), recipe.get("exclude", ())):
        raise ArtifactError(f"{folder} holds the artifact of other weights ({found['source']}); {way_out}.")


def _write_files(artifact: Artifact, folder: Path) -> None:
    save_file({name: s.contiguous() for name, s in artifact.scores.items()}, folder / "scores.safetensors")
    save_basis(artifact.basis, folder / "basis.safetensors")
    if artifact.adapters is not None:
        _write_peft(artifact, artifact.adapters, folder)
        save_file(artifact.history, folder / "history.safetensors")
    (folder / "README.md").write_text(model_card(artifact), encoding="utf-8")
    description = {
        "format_version": FORMAT_VERSION,
        "name": artifact.name,
        "source": artifact.source,
        "fingerprint": artifact.fingerprint,
        "recipe": artifact.recipe,
        "curves": [asdict(curve) for curve in map(_measured, artifact.curves) if curve.points],
    }
    _write_description(description, folder, folder / "acip.json")


def _measured(curve: Curve) -> Curve:
    """A curve where it has numbers: the perplexity of a ruined cut can be beyond all of them."""
    finite = [point for point in curve.points if math.isfinite(point.perplexity)]
    return replace(curve, points=tuple(finite) if math.isfinite(curve.base_perplexity) else ())


def _write_description(description: Mapping[str, Any], folder: Path, path: Path) -> None:
    names = [name for name in _FILES if (folder / name).exists()]
    files = {name: {"bytes": check_regular(folder / name), "sha256": file_digest(folder / name)} for name in names}
    write_json(path, {**description, "format_version": FORMAT_VERSION, "files": files}, indent=1)


def renew_digests(folder: Path) -> None:
    """Write an artifact's lengths and digests anew: it is older than they are, or a file was edited on purpose.

    Raises:
        ArtifactError: there is no artifact, or what it holds is malformed.
        StorageError: the file cannot be written.
    """
    description = _read_description(folder / "acip.json", checked=False)
    with atomic_path(folder / "acip.json") as temporary:
        _write_description(description, folder, temporary)
    read_artifact(folder)


def _write_peft(artifact: Artifact, adapters: Mapping[str, AdapterWeights], folder: Path) -> None:
    settings = artifact.recipe["adapters"]
    scaling = settings["alpha"] / settings["rank"]
    tensors = {}
    for name, adapter in adapters.items():
        tensors[f"{_PEFT_PREFIX}{name}.lora_A.weight"] = adapter.a.bfloat16().contiguous()
        tensors[f"{_PEFT_PREFIX}{name}.lora_B.weight"] = (adapter.b / scaling).bfloat16().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": hub_name(artifact),
        "r": settings["rank"],
        "lora_alpha": settings["alpha"],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        # last parts of names mean every layer that has them, which patterns may have left out
        "target_modules": sorted(adapters)
        if artifact.include or artifact.exclude
        else sorted({name.rpartition(".")[2] for name in adapters}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def read_artifact(folder: Path) -> Artifact:
    """Read and validate an artifact.

    Raises:
        ArtifactError: a file is missing, truncated, of another format version, differs from what was written, or holds
            wrong shapes or values; the message names the file and the field.
    """
    folder = folder.expanduser()
    recover(folder)
    description = _read_description(folder / "acip.json")
    if description["format_version"] == _WITHOUT_DIGESTS:
        log.warning("The artifact %s has no digests; `python -m acip_core renew %s` adds them.", folder, folder)
    _check_files(folder, description.get("files", {}))
    scores = _read_scores(folder / "scores.safetensors")
    basis = _read_basis(folder / "basis.safetensors", set(scores))
    has_adapters = description["recipe"].get("adapters") is not None
    adapters = _read_peft(folder, set(scores)) if has_adapters else None
    with damage_told(folder / "acip.json", "field 'curves' is malformed; restore the file"):
        curves = tuple(_curve(entry) for entry in description["curves"])
    return Artifact(
        name=description["name"],
        source=description["source"],
        fingerprint=description["fingerprint"],
        recipe=description["recipe"],
        curves=curves,
        scores=scores,
        basis=basis,
        adapters=adapters,
        history=_read_history(folder / "history.safetensors") if has_adapters else {},
    )


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, told in files.items():
        renewal = f", or run `python -m acip_core renew {folder}` if you edited it" if name == "README.md" else ""
        with damage_told(folder / name, _RESTORE + renewal):
            if check_regular(folder / name) != told["bytes"]:
                raise ValueError("it has another length than was written")
            if file_digest(folder / name) != told["sha256"]:
                raise ValueError("its SHA-256 is another one than was written")


def _curve(entry: dict[str, Any]) -> Curve:
    curve = built(Curve, {**entry, "points": tuple(built(CurvePoint, point) for point in entry["points"])})
    numbers = [curve.tokens, curve.base_perplexity, *(v for point in curve.points for v in asdict(point).values())]
    for value in numbers:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{value!r} in {curve.method}, {curve.corpus}")
    if not curve.points:
        raise ValueError(f"no points in {curve.method}, {curve.corpus}")
    return curve


def _read_description(path: Path, checked: bool = True) -> dict[str, Any]:
    """What `acip.json` says, its fields of the right types.

    Args:
        checked: False reads a file whose digest is not its own.
    """
    if not os.path.lexists(path):
        raise ArtifactError(f"No artifact at {path.parent}; make one with `python -m acip_core precompute --quick`.")
    with damage_told(path, "restore the file"):
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
    """Lengths and digests of the files there can be: a name with a way out of the folder is none."""
    if not (isinstance(value, dict) and {"scores.safetensors", "basis.safetensors"} <= value.keys() <= set(_FILES)):
        return False
    return all(isinstance(told, dict) and told.keys() == {"bytes", "sha256"} for told in value.values())


_FIELDS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("name", "source", "fingerprint"), lambda value: isinstance(value, str)),
    "recipe": lambda value: isinstance(value, dict),
    "curves": lambda value: isinstance(value, list),
}
_RECIPE: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("include", "exclude", "corpora"), _are_patterns),
    "window": _is_count,
    "quantized": lambda value: value is None or isinstance(value, str),
    "adapters": lambda value: value is None or isinstance(value, dict),
}


def _read_scores(path: Path) -> dict[str, torch.Tensor]:
    with damage_told(path, _RESTORE):
        tensors, _ = read_tensors(path)
        for name, scores in tensors.items():
            check_floats(name, scores, 1)
    return {name: scores.float() for name, scores in tensors.items()}


def _read_history(path: Path) -> dict[str, torch.Tensor]:
    with damage_told(path, _RESTORE):
        tensors, _ = read_tensors(path)
        for name, values in tensors.items():
            if values.dtype not in (torch.int64, torch.int32, torch.int16):
                check_floats(name, values, values.ndim)
    return tensors


def _read_basis(path: Path, layers: set[str]) -> Basis:
    with damage_told(path, _RESTORE):
        basis = read_basis(path)
        if set(basis) != layers:
            raise ValueError("it and scores.safetensors name different layers")
        for moment in basis.values():
            name = moment.layers[0]
            check_floats(f"{name}.scale", moment.scale, 1)
            check_floats(f"{name}.columns", moment.columns, 1)
            fits = moment.factor.shape == (*moment.scale.shape, *moment.columns.shape)
            if not (fits and moment.side in ("input", "output") and moment.factor.dtype == torch.int8):
                raise ValueError(f"the moment of '{name}' is malformed")
    return basis


def _read_peft(folder: Path, layers: set[str]) -> dict[str, AdapterWeights]:
    config = folder / "adapter_config.json"
    with damage_told(config, "restore it"):
        settings = read_json(config)
        rank, scaling = settings["r"], settings["lora_alpha"] / settings["r"]
        if not (type(rank) is int and math.isfinite(scaling)):
            raise ValueError(f"r is {rank!r:.40}, lora_alpha is {settings['lora_alpha']!r:.40}")
    path = folder / "adapter_model.safetensors"
    adapters = {}
    with damage_told(path, _RESTORE):
        tensors, _ = read_tensors(path)
        for name in sorted(layers):
            parts = [tensors.get(f"{_PEFT_PREFIX}{name}.lora_{part}.weight") for part in "AB"]
            if parts[0] is None or parts[1] is None:
                raise ValueError(f"it holds no adapter for the layer '{name}'")
            a, b = parts[0], parts[1]  # (rank, in_features), (out_features, rank)
            if a.shape[:1] + b.shape[1:] != (rank, rank):
                raise ValueError(f"the adapter of '{name}' does not have rank {rank}")
            check_floats(name, a, 2)
            check_floats(name, b, 2)
            adapters[name] = AdapterWeights(a.float(), b.float() * scaling)
    return adapters
