"""Write an artifact's files, and decide what they may replace; `artifact` describes the files."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..errors import ArtifactError
from ..evaluation.curves import Curve
from ..model.elastic_model import AdapterWeights
from ..model.second_moments import Basis, read_basis, save_basis
from ..model.trained_factors import save_updates
from ..paths import exists_here, local_path
from ..storage.atomic import atomic_path, entries, read_unless_damaged
from ..storage.digests import check_regular, file_digest
from ..storage.verified import (
    reporting_damage,
    write_json,
)
from .artifact import FILES, FORMAT_VERSION, PEFT_PREFIX, Artifact
from .card import hub_name, model_card
from .coding import CODING, CODING_FILES
from .completions import FILE as COMPLETIONS
from .knowledge import FILE as KNOWLEDGE
from .reader import read_artifact, read_description

# They cost hours; the last two say themselves which directions and codes they are of.
_OF_OTHER_COMMANDS = ("comparison.json", "ablation.json", "parts.json", "peers.json", "evaluation.json", KNOWLEDGE)
_OF_AN_ARTIFACT = {*FILES, "acip.json", *_OF_OTHER_COMMANDS, *CODING_FILES, COMPLETIONS}


def write_artifact(artifact: Artifact, folder: Path, also: Callable[[Path], object] | None = None) -> None:
    """Write all files, replacing an older artifact only when the new one is complete.

    What `compare`, `ablate` and `evaluate` measured on the same model stays in the folder, and its operating points
    too where the basis is the same and there are no new ones; so does what is not of an artifact, such as a report, a
    licence or a repository's `.git`.

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
        kept: tuple[str, ...] = _OF_OTHER_COMMANDS if _fingerprint(folder) == artifact.fingerprint else ()
        new = (temporary / CODING).exists()
        if kept and not new and _same_basis(folder / "basis.safetensors", artifact):  # its moments made the codes
            kept = (*kept, *CODING_FILES)
        others = set(entries(folder)) - _OF_AN_ARTIFACT
        for name in (*kept, *sorted(others)):
            if os.path.lexists(folder / name) and not (temporary / name).exists():
                _copy(folder / name, temporary / name)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _same_basis(path: Path, artifact: Artifact) -> bool:
    """Whether a file holds this artifact's very basis; none that cannot be read does."""
    found = read_unless_damaged(path, read_basis)
    if found is None:
        return False
    return all(
        _same_moments(a or {}, b or {}) for a, b in zip(found, (artifact.basis, artifact.gradients), strict=True)
    )


def _same_moments(a: Basis, b: Basis) -> bool:
    parts = ("scale", "factor", "columns")
    return a.keys() == b.keys() and all(torch.equal(getattr(a[k], p), getattr(b[k], p)) for k in a for p in parts)


def _fingerprint(folder: Path) -> str | None:
    """Of the model that an artifact was made from; None where there is none that can be read."""
    try:
        return read_description(folder / "acip.json")["fingerprint"]
    except ArtifactError:
        return None


def check_replaceable(folder: Path) -> None:
    """Refuse to replace anything that is not an artifact or an empty folder.

    Raises:
        ArtifactError: something else is at that place.
    """
    folder = local_path(folder)
    names = entries(folder)
    if (names and "acip.json" not in names) or (exists_here(folder) and not folder.is_dir()):
        raise ArtifactError(f"{folder} holds other files; name a new folder for the artifact.")


def check_owner(folder: Path, owned: Callable[[str, Sequence[str], Sequence[str]], bool], replace: bool) -> None:
    """Refuse to replace the artifact of other weights.

    Args:
        owned: whether a fingerprint over the layers of some patterns (include, exclude) is that of the artifact to be
            written.
        replace: allow it.

    Raises:
        ArtifactError: such an artifact is there, or one that cannot be read, or `check_replaceable` says so.
    """
    check_replaceable(folder)
    if replace or "acip.json" not in entries(local_path(folder)):
        return
    way_out = "name another folder with --out, or replace it with --replace"
    with reporting_damage(folder / "acip.json", way_out):
        try:
            found = read_description(local_path(folder) / "acip.json")
        except ArtifactError as error:
            raise ValueError("it does not say whose it is") from error
    recipe = found["recipe"]
    if not owned(found["fingerprint"], recipe.get("include", ()), recipe.get("exclude", ())):
        raise ArtifactError(f"{folder} holds the artifact of other weights ({found['source']}); {way_out}.")


def _write_files(artifact: Artifact, folder: Path) -> None:
    save_file({name: s.contiguous() for name, s in artifact.scores.items()}, folder / "scores.safetensors")
    save_basis(artifact.basis, folder / "basis.safetensors", artifact.gradients)
    if artifact.updates is not None:
        save_updates(artifact.updates, folder / "factors.safetensors")
    if artifact.adapters is not None:
        _write_peft(artifact, artifact.adapters, folder)
    if artifact.history:
        save_file(artifact.history, folder / "history.safetensors")
    (folder / "README.md").write_text(model_card(artifact), encoding="utf-8")
    description = {
        "format_version": FORMAT_VERSION,
        "name": artifact.name,
        "source": artifact.source,
        "fingerprint": artifact.fingerprint,
        "recipe": artifact.recipe,
        "curves": _described(artifact.curves),
    }
    _write_description(description, folder, folder / "acip.json")


def _described(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    described = [asdict(curve) for curve in map(_measured, curves) if curve.points]
    for curve in described:
        curve["points"] = [{k: v for k, v in point.items() if v is not None} for point in curve["points"]]
    return described


def _measured(curve: Curve) -> Curve:
    """The finite points of a curve: the perplexity of a ruined cut can exceed all floats."""
    finite = [point for point in curve.points if math.isfinite(point.perplexity)]
    return replace(curve, points=tuple(finite) if math.isfinite(curve.base_perplexity) else ())


def _write_description(description: Mapping[str, Any], folder: Path, path: Path) -> None:
    names = [name for name in FILES if (folder / name).exists()]
    files = {name: {"bytes": check_regular(folder / name), "sha256": file_digest(folder / name)} for name in names}
    write_json(path, {**description, "format_version": FORMAT_VERSION, "files": files}, indent=1)


def rewrite_curves(curves: Sequence[Curve], folder: Path) -> None:
    """Put other curves into an artifact's description; all other files stay as they are.

    Raises:
        ArtifactError, StorageError: as `renew_digests`.
    """
    description = read_description(folder / "acip.json")
    with atomic_path(folder / "acip.json") as temporary:
        _write_description({**description, "curves": _described(curves)}, folder, temporary)


def renew_digests(folder: Path) -> None:
    """Write an artifact's lengths and digests anew: it is older than they are, or a file was edited on purpose.

    Raises:
        ArtifactError: there is no artifact, or what it holds is malformed.
        StorageError: the file cannot be written.
    """
    description = read_description(folder / "acip.json", checked=False)
    with atomic_path(folder / "acip.json") as temporary:
        _write_description(description, folder, temporary)
    read_artifact(folder)


def _write_peft(artifact: Artifact, adapters: Mapping[str, AdapterWeights], folder: Path) -> None:
    settings = artifact.recipe["adapters"]
    scaling = settings["alpha"] / settings["rank"]
    tensors = {}
    for name, adapter in adapters.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = adapter.a.bfloat16().contiguous()
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = (adapter.b / scaling).bfloat16().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    named = artifact.include or artifact.exclude  # last parts of names mean every layer that has them
    config = _lora_config()(
        task_type="CAUSAL_LM",
        base_model_name_or_path=hub_name(artifact),
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        inference_mode=True,
    )
    # PEFT makes a set of names that it is given, whose order in the file differs from process to process.
    config.target_modules = sorted(adapters if named else {name.rpartition(".")[2] for name in adapters})
    config.save_pretrained(str(folder))


def _lora_config() -> Any:
    """PEFT's settings class, imported (0.9 s) where adapters are written alone."""
    kernels = logging.getLogger("bitsandbytes")  # PEFT imports it, and it warns of kernels that nothing here uses
    level = kernels.level
    kernels.setLevel(logging.ERROR)
    try:
        from peft import LoraConfig
    finally:
        kernels.setLevel(level)
    return LoraConfig
