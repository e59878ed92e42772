"""From a model name and its artifact to an elastic model that is ready to run.

Here it is decided whether an artifact belongs to a model's weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..data.framing import framing
from ..errors import AcipError, ArtifactError, ModelError, PrecisionError
from ..evaluation.curves import Curve
from ..evaluation.facts import vocabulary_of
from ..model.base_model import DEFAULT_HUB_ID, DEFAULT_MODEL, BaseModel, embedded_gguf, fingerprint, load_base
from ..model.code_cache import cached_codes
from ..model.coded_states import coded_matrices, install_coded_adapters, install_codes
from ..model.elastic_model import ElasticModel, build_elastic
from ..model.factor_cache import cached_factors
from ..model.offloading import check_in_memory, is_offloaded
from ..model.packed_codes import repository_of
from ..model.quantization import FULL, Quantized, at_precision, check_precision, quantize
from ..model.rank_costs import break_even_rank
from ..model.target_layers import TargetLayers, target_layers
from ..paths import local_path
from ..progress import Progress, Steps
from ..storage.hub import HubConfig, Repository, artifact_folder, split_revision
from .artifact import Artifact, default_artifact
from .coding import Coding, in_eight_bits, read_coding
from .comparison import Comparison, read_comparison
from .completions import Completions, read_completions
from .knowledge import Knowledge, fitting_knowledge
from .peers import Peers, read_peers
from .reader import read_artifact
from .recounting import recounted
from .task_results import TaskResult, read_evaluation

log = logging.getLogger("acip")
_PRECOMPUTE = "precompute one for this model with `python -m acip_core precompute`"


@dataclass(frozen=True)
class FittedArtifact:
    """An artifact that fits a model.

    Attributes:
        weights: of the target layers, (out_features, in_features) by name.
        fingerprint: of these weights.
        note: one sentence for people where the artifact was made from others, or empty.
    """

    folder: Path
    artifact: Artifact
    weights: Mapping[str, torch.Tensor]
    fingerprint: str
    note: str


@dataclass(frozen=True)
class Loaded:
    """An elastic model with the artifact it was built from.

    Attributes:
        note: one sentence for people, or empty.
        comparison: what was measured of other methods on the same model, if anything.
        completions: of example prompts at many sizes, made beforehand.
        evaluation: benchmarks at several sizes, if they were run.
        quantized: the layers as they are stored, where they have fewer bits.
        folder: of the artifact.
        fingerprint: of the weights that are compressed.
        coding: what sizes in bytes are planned with; None where the artifact has the mode `directions` alone.
        peers: what was measured of other quantizers on the same model, if anything.
        knowledge: which facts every size knows, if they were asked for; None where the layers are quantized.
        published: repository that may have the codes.
    """

    elastic: ElasticModel
    artifact: Artifact
    note: str
    comparison: Comparison | None = None
    completions: tuple[Completions, ...] = ()
    evaluation: tuple[TaskResult, ...] = ()
    quantized: Quantized | None = None
    folder: Path = Path()
    fingerprint: str = ""
    coding: Coding | None = None
    peers: Peers | None = None
    knowledge: Knowledge | None = None
    published: Repository | None = None


def open_model(
    source: str | None = None,
    artifact: str | Path | None = None,
    count_adapters: bool = True,
    install: bool = True,
    precision: str = FULL,
    same_weights: bool = False,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    hub: HubConfig = HubConfig(),
    codes: bool = True,
    whole_for: str = "",
) -> Steps[Loaded]:
    """Load a base model, factorize it (or read the factors from this machine's cache) and make it elastic.

    Args:
        source: as `load_base`.
        artifact: folder of the artifact or its name on the Hub (`user/repo`, `user/repo@revision`);
            `artifact.default_artifact` of the model's name by default.
        count_adapters: False reproduces the paper's size convention: adapters are free, ranks k cost k (m + n).
        install: False leaves out of the model what the artifact's training added, and its factors unrounded, to train.
        precision: of the target layers, one of `quantization.precisions()`; curves and completions of others do
            not count as this model's.
        same_weights: as `find_artifact`.
        dtype, device: as `load_base`.
        hub: how model and artifact are fetched.
        codes: False leaves out what sizes in bytes need, whose files may be damaged where they are made anew.
        whole_for: what will be made of the model, as `check_in_memory`, where weights must not stay in their files.

    Raises:
        ModelError, ArtifactError, HubError, PrecisionError: one sentence each.
    """
    check_precision(precision)  # before minutes of work
    folder = artifact_folder(artifact, hub) if artifact is not None else None
    yield Progress("loading the model", 0, 1)
    base = load_base(source, device, dtype, hub)
    yield Progress("loading the model", 1, 1)
    if whole_for or precision != FULL:
        check_in_memory(base.model, whole_for or f"weights in {precision}")
    fitted = find_artifact(base, folder, same_weights)
    folder, read = fitted.folder, fitted.artifact
    factors = yield from cached_factors(fitted.weights, fitted.fingerprint, read.basis, read.gradients)
    adapters, updates = (read.adapters, read.updates) if install else (None, None)
    pivoted = read.pivoted and count_adapters
    elastic = yield from build_elastic(base, factors, read.scores, adapters, count_adapters, True, updates, pivoted)
    read = replace(read, curves=recounted(read.curves, elastic))
    coding = read_coding(folder, read.basis, read.gradients) if codes else None
    loaded = Loaded(
        elastic,
        read,
        fitted.note,
        read_comparison(folder),
        folder=folder,
        fingerprint=fitted.fingerprint,
        coding=coding,
        peers=read_peers(folder),
        published=repository_of(artifact, hub),
    )
    if install and precision == FULL:
        elastic.round_factors()
    if precision != FULL:
        quantized = yield from quantize(elastic, precision)
        curves = _precision_first(read.curves, precision)
        return replace(loaded, artifact=replace(read, curves=curves), quantized=quantized)
    return _with_measurements(loaded)


def _with_measurements(loaded: Loaded) -> Loaded:
    """What other commands measured of the model in full precision."""
    base, folder = loaded.elastic.base, loaded.folder
    completions, evaluation = tuple(read_completions(folder)), tuple(read_evaluation(folder))
    knowledge = fitting_knowledge(folder, base.tokenizer, vocabulary_of(base.model))
    return replace(loaded, completions=completions, evaluation=evaluation, knowledge=knowledge)


def bits_refused(loaded: Loaded) -> AcipError | None:
    """Why no bits can be spent on an opened model, as an error that says what helps; None where they can."""
    if loaded.quantized is not None:
        name = loaded.quantized.precision.name
        return PrecisionError(f"Layers in {name} have no codes, so bits cannot be spent; leave out the precision.")
    if is_offloaded(loaded.elastic.model):
        return ModelError(
            "Weights that stay in their files have no codes, so bits cannot be spent; name a device with memory for "
            "them (ACIP_DEVICE=cpu or cuda)."
        )
    if loaded.coding is None:
        return ArtifactError(
            "The artifact has no operating points, so bits cannot be spent; `python -m acip_core codes` adds them."
        )
    return None


def install_coding(loaded: Loaded) -> Steps[bool]:
    """Make codes states of an opened model, from this machine's cache, the Hub, or in minutes; it may run meanwhile.

    Returns:
        False where there are none, as `bits_refused` says.

    Raises:
        ModelError: a moment is too damaged to be used.
    """
    coding, elastic = loaded.coding, loaded.elastic
    if coding is None or bits_refused(loaded) is not None:
        return False
    matrices = coded_matrices(elastic, coding.moments.tables)
    coded = yield from cached_codes(matrices, coding.moments, fingerprint(matrices), loaded.published)
    install_codes(elastic, coded, coding.calibration)
    if coding.adapters is not None:
        install_coded_adapters(elastic, {name: in_eight_bits(a) for name, a in coding.adapters.items()})
    return True


def _precision_first(curves: tuple[Curve, ...], precision: str) -> tuple[Curve, ...]:
    """The curves with those of a precision first; none where it was not measured: the first are the model's."""
    measured = [curve for curve in curves if curve.method == at_precision(curves[0].method, precision)]
    return (*measured, *(curve for curve in curves if curve not in measured)) if measured else ()


def find_artifact(base: BaseModel, named: Path | None = None, same_weights: bool = False) -> FittedArtifact:
    """The artifact of a model, checked to fit it; a note about one of other weights is logged.

    Args:
        named: its folder; by default that of the model's name, whose artifact has to be of the model's weights.
        same_weights: refuse an artifact of other weights even if it was named, as where results are written into it.

    Raises:
        ArtifactError: there is none, it is damaged or another model's.
    """
    folder = local_path(named) if named is not None else default_artifact(base.name)
    artifact = read_artifact(folder)
    targets = target_layers(base.model, artifact.include, artifact.exclude)
    _check_fits(base, targets, artifact)
    weights = targets.weights()
    actual = fingerprint(weights)
    note = "" if actual == artifact.fingerprint else _note(base, artifact)
    if note and (same_weights or named is None) and not _is_meant_for(base, artifact):
        way_out = "precompute one with `--out FOLDER` and name it with `--artifact`"
        if same_weights:
            reason = "results of these weights do not belong into it"
        else:
            reason, way_out = "it was found by its name alone", f"{way_out}, or name this one to use it all the same"
        raise ArtifactError(
            f"The artifact {folder} was made from other weights ({artifact.source}) than those of {base.source}, and "
            f"{reason}; {way_out}."
        )
    if framing(base.tokenizer).start and "framing" not in artifact.recipe:
        begun = "The artifact was made from text without the start token that this model's texts begin with"
        note = f"{note} {begun}; {_PRECOMPUTE}.".strip()
    if note:
        log.warning(note)
    return FittedArtifact(folder, artifact, weights, actual, note)


def _check_fits(base: BaseModel, targets: TargetLayers[nn.Linear], artifact: Artifact) -> None:
    if set(targets) != set(artifact.scores):
        raise ArtifactError(
            f"The artifact was made for {artifact.source} and names other layers than {base.source}; {_PRECOMPUTE}."
        )
    for name, shape in targets.shapes.items():
        _check_shapes(name, *shape, artifact)


def _note(base: BaseModel, artifact: Artifact) -> str:
    """What to say of an artifact of other weights of a model.

    Raises:
        ArtifactError: it is of another model.
    """
    if base.name != artifact.name:
        raise ArtifactError(
            f"The artifact was made for {artifact.source}, not for {base.source} (field 'fingerprint' differs); "
            f"{_PRECOMPUTE}."
        )
    quantized = artifact.recipe.get("quantized", FULL)
    made_from = artifact.source + (f", quantized to {quantized}," if quantized != FULL else "")
    return (
        f"The score map was made from {made_from} and is applied to the weights of {base.source}: "
        "the measured perplexities are close to, not exactly, those of this model."
    )


def _is_meant_for(base: BaseModel, artifact: Artifact) -> bool:
    """Whether an artifact of other weights is to be used with a model.

    So it is where the weights were quantized on purpose (section 3.4 of the paper), and with the default model, whose
    embedded copy has 4 bits a weight, whose copy on the Hub 16.
    """
    if artifact.recipe.get("quantized", FULL) != FULL:
        return True
    embedded = embedded_gguf()
    copies = (DEFAULT_HUB_ID, embedded.stem if embedded is not None else DEFAULT_HUB_ID)
    return artifact.name == DEFAULT_MODEL and split_revision(base.source)[0] in copies


def _check_shapes(name: str, m: int, n: int, artifact: Artifact) -> None:
    scores = artifact.scores[name]
    if len(scores) != min(m, n):
        raise ArtifactError(
            f"scores.safetensors: '{name}' has {len(scores)} scores, the model has {min(m, n)} directions there."
        )
    moment = artifact.basis[name]
    if len(moment.scale) != (n if moment.side == "input" else m) or (moment.side == "output" and m > n):
        raise ArtifactError(
            f"basis.safetensors: '{name}' has {len(moment.scale)} {moment.side} channels, "
            f"which do not fit a {m} × {n} layer."
        )
    if artifact.gradients is not None and len(artifact.gradients[name].scale) != m:
        raise ArtifactError(f"basis.safetensors: the gradients of '{name}' do not fit a {m} × {n} layer.")
    rows = min(break_even_rank(m, n, pivoted=artifact.pivoted), m, n)
    if artifact.updates is not None and len(artifact.updates[name].up.scale) != rows:
        raise ArtifactError(f"factors.safetensors: '{name}' has another number of directions than a {m} × {n} layer.")
    if artifact.adapters is not None:
        adapter = artifact.adapters[name]
        if adapter.a.shape[1] != n or adapter.b.shape[0] != m:
            raise ArtifactError(f"adapter_model.safetensors: the adapter of '{name}' does not fit a {m} × {n} layer.")
