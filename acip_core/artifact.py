"""What lies in `precomputed/<model>/`: write it, read it, refuse anything damaged with one sentence.

acip.json                 format version, model and fingerprint, recipe, library versions, measured curves
scores.safetensors        one vector (r,) per layer
basis.safetensors         what rebuilds the basis of the factorization (`basis`)
adapter_config.json       PEFT's LoRA format, absent when no adapters were trained
adapter_model.safetensors
history.safetensors       loss and size ratio per adapter step, absent likewise
README.md                 model card

Beside these lie what other commands measured or made of it: `completions.json`, `comparison.json`, `ablation.json`,
`evaluation.json`.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .basis import Basis, read_basis, save_basis
from .card import hub_name, model_card
from .elastic import AdapterWeights
from .errors import ArtifactError
from .storage import atomic_path

FORMAT_VERSION = 1
_PEFT_PREFIX = "base_model.model."
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
    """Where the artifact of a model is kept beside the package."""
    return Path(__file__).resolve().parent.parent / "precomputed" / name


def write_artifact(artifact: Artifact, folder: Path) -> None:
    """Write all files, replacing an older artifact only when the new one is complete.

    What `compare`, `ablate` and `evaluate` measured on the same model stays in the folder.

    Raises:
        ArtifactError: something else is at that place.
        StorageError: the folder cannot be written.
    """
    check_replaceable(folder)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        _write_files(artifact, temporary)
        for name in _OF_OTHER_COMMANDS if _fingerprint(folder) == artifact.fingerprint else ():
            if (folder / name).is_file():
                shutil.copy(folder / name, temporary / name)


def _fingerprint(folder: Path) -> str | None:
    """Of the model that an artifact was made from; None where there is none that can be read."""
    try:
        return json.loads((folder / "acip.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_replaceable(folder: Path) -> None:
    """Refuse to replace anything that is not an artifact or an empty folder.

    Raises:
        ArtifactError: something else is at that place.
    """
    free = not any(folder.iterdir()) or (folder / "acip.json").is_file() if folder.is_dir() else not folder.exists()
    if not free:
        raise ArtifactError(f"{folder} holds other files; name a new folder for the artifact.")


def _write_files(artifact: Artifact, folder: Path) -> None:
    description = {
        "format_version": FORMAT_VERSION,
        "name": artifact.name,
        "source": artifact.source,
        "fingerprint": artifact.fingerprint,
        "recipe": artifact.recipe,
        "curves": [asdict(curve) for curve in artifact.curves],
    }
    (folder / "acip.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    save_file({name: s.contiguous() for name, s in artifact.scores.items()}, folder / "scores.safetensors")
    save_basis(artifact.basis, folder / "basis.safetensors")
    if artifact.adapters is not None:
        _write_peft(artifact, artifact.adapters, folder)
        save_file(artifact.history, folder / "history.safetensors")
    (folder / "README.md").write_text(model_card(artifact), encoding="utf-8")


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
        ArtifactError: a file is missing, truncated, of another format version, or holds wrong shapes or values;
            the message names the file and the field.
    """
    description = _read_description(folder / "acip.json")
    scores = _read_tensors(folder / "scores.safetensors")
    for name, score in scores.items():
        if score.ndim != 1 or not torch.isfinite(score).all():
            raise ArtifactError(
                f"{folder / 'scores.safetensors'}: '{name}' is not a vector of finite scores; restore the file."
            )
    basis = _read_basis(folder / "basis.safetensors", set(scores))
    has_adapters = description["recipe"].get("adapters") is not None
    adapters = _read_peft(folder, set(scores)) if has_adapters else None
    try:
        curves = tuple(_curve(entry) for entry in description["curves"])
    except (TypeError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{folder / 'acip.json'}: field 'curves' is malformed ({error}); restore the file."
        ) from error
    return Artifact(
        name=description["name"],
        source=description["source"],
        fingerprint=description["fingerprint"],
        recipe=description["recipe"],
        curves=curves,
        scores={name: score.float() for name, score in scores.items()},
        basis=basis,
        adapters=adapters,
        history=_read_tensors(folder / "history.safetensors") if has_adapters else {},
    )


def _curve(entry: dict[str, Any]) -> Curve:
    curve = Curve(**{**entry, "points": tuple(CurvePoint(**point) for point in entry["points"])})
    for text in (curve.method, curve.corpus, curve.split):
        if not isinstance(text, str):
            raise ValueError(f"{text!r} in place of a name")
    numbers = [curve.tokens, curve.base_perplexity, *(v for point in curve.points for v in asdict(point).values())]
    for value in numbers:
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise ValueError(f"{value!r} in {curve.method}, {curve.corpus}")
    if not curve.points:
        raise ValueError(f"no points in {curve.method}, {curve.corpus}")
    return curve


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(f"No artifact at {path.parent}; make one with `python -m acip_core precompute --quick`.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        fields = {"name": str, "source": str, "fingerprint": str, "recipe": dict, "curves": list}
        wrong = [field for field, kind in fields.items() if not isinstance(description.get(field), kind)]
        if not wrong:
            wrong = [key for key in ("include", "exclude") if not _are_patterns(description["recipe"].get(key, []))]
    except (ValueError, AttributeError, OSError) as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}); restore the file.") from error
    if description.get("format_version") != FORMAT_VERSION:
        found = description.get("format_version")
        raise ArtifactError(
            f"{path}: format_version is {found!r}, this program reads {FORMAT_VERSION}; precompute again."
        )
    if wrong:
        raise ArtifactError(f"{path}: field '{wrong[0]}' is missing or malformed; restore the file.")
    return description


def _are_patterns(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(pattern, str) for pattern in value)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; restore the artifact or precompute again.") from None
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); restore the artifact or precompute again.") from error


def _read_basis(path: Path, layers: set[str]) -> Basis:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; restore the artifact or precompute again.")
    try:
        basis = read_basis(path)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); restore the artifact or precompute again.") from error
    if set(basis) != layers:
        raise ArtifactError(f"{path} and scores.safetensors name different layers; restore the artifact.")
    for moment in basis.values():
        fits = moment.factor.shape == (*moment.scale.shape, *moment.columns.shape) and moment.factor.ndim == 2
        fits &= moment.side in ("input", "output") and moment.factor.dtype == torch.int8
        if not (fits and torch.isfinite(moment.scale).all() and torch.isfinite(moment.columns).all()):
            raise ArtifactError(
                f"{path}: the moment of '{moment.layers[0]}' is malformed or not finite; restore the file."
            )
    return basis


def _read_peft(folder: Path, layers: set[str]) -> dict[str, AdapterWeights]:
    path = folder / "adapter_model.safetensors"
    tensors = _read_tensors(path)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        scaling = config["lora_alpha"] / config["r"]
        if not math.isfinite(scaling):
            raise ValueError(f"lora_alpha is {config['lora_alpha']}")
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ArtifactError(
            f"{folder / 'adapter_config.json'} is missing or malformed ({error}); restore it."
        ) from error
    adapters = {}
    for name in sorted(layers):
        a = tensors.get(f"{_PEFT_PREFIX}{name}.lora_A.weight")
        b = tensors.get(f"{_PEFT_PREFIX}{name}.lora_B.weight")
        if a is None or b is None:
            raise ArtifactError(f"{path} holds no adapter for the layer '{name}'; restore the artifact.")
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != config["r"] or b.shape[1] != config["r"]:
            raise ArtifactError(
                f"{path}: the adapter of '{name}' does not have rank {config['r']}; restore the artifact."
            )
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise ArtifactError(
                f"{path}: the adapter of '{name}' holds values that are not finite; restore the artifact."
            )
        adapters[name] = AdapterWeights(a.float(), b.float() * scaling)
    return adapters
