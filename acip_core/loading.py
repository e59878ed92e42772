"""From a model name and its artifact to an elastic model that is ready to run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from .artifact import Artifact, Curve, default_artifact, read_artifact
from .base import BaseModel, fingerprint, load_base
from .comparison import Comparison, read_comparison
from .completions import Completions, read_completions
from .elastic import ElasticModel, build_elastic
from .errors import ArtifactError
from .evaluation import TaskResult, read_evaluation
from .factorize import cached_factors
from .hub import artifact_folder
from .precision import FULL, Quantized, at_precision, quantize
from .progress import Progress, Steps
from .targets import target_layers


@dataclass(frozen=True)
class Loaded:
    """An elastic model with the artifact it was built from.

    Attributes:
        note: one sentence for people, or empty.
        comparison: what was measured of other methods on the same model, if anything.
        completions: of example prompts at many sizes, made beforehand.
        evaluation: benchmarks at several sizes, if they were run.
        quantized: the layers as they are stored, where they have fewer bits.
    """

    elastic: ElasticModel
    artifact: Artifact
    note: str
    comparison: Comparison | None = None
    completions: tuple[Completions, ...] = ()
    evaluation: tuple[TaskResult, ...] = ()
    quantized: Quantized | None = None


def open_model(
    source: str | None = None,
    artifact: str | Path | None = None,
    count_adapters: bool = True,
    install: bool = True,
    precision: str = FULL,
) -> Steps[Loaded]:
    """Load a base model, factorize it (or read the factors from this machine's cache) and make it elastic.

    Args:
        source: as `load_base`.
        artifact: folder of the artifact or its name on the Hub (`user/repo`, `user/repo@revision`);
            `precomputed/<model>` by default.
        count_adapters: False reproduces the paper's size convention.
        install: False leaves the artifact's adapters out of the model.
        precision: of the target layers, one of `precision.precisions()`; what was measured or made beforehand at others
            is no longer the model's own.

    Raises:
        ModelError, ArtifactError, HubError, PrecisionError: one sentence each.
    """
    folder = artifact_folder(artifact) if artifact is not None else None
    yield Progress("loading the model", 0, 1)
    base = load_base(source)
    yield Progress("loading the model", 1, 1)
    folder = folder or default_artifact(base.name)
    read = read_artifact(folder)
    targets = target_layers(base.model, read.include, read.exclude)
    weights = {name: layer.weight.detach() for name, layer in targets.items()}
    found = fingerprint(weights)
    note = _match(base, targets, found, read)
    factors = yield from cached_factors(weights, found, read.basis)
    adapters = read.adapters if install else None
    elastic = yield from build_elastic(base, factors, read.scores, adapters, count_adapters)
    loaded = Loaded(elastic, read, note, read_comparison(folder))
    if precision != FULL:
        quantized = yield from quantize(elastic, precision)
        return replace(loaded, artifact=replace(read, curves=_own_first(read.curves, precision)), quantized=quantized)
    made, evaluated = tuple(read_completions(folder)), tuple(read_evaluation(folder))
    return replace(loaded, completions=made, evaluation=evaluated)


def _own_first(curves: tuple[Curve, ...], precision: str) -> tuple[Curve, ...]:
    """The curves with those of a precision first; none where it was not measured, for others would pass for its own."""
    own = [curve for curve in curves if curve.method == at_precision(curves[0].method, precision)]
    return (*own, *(curve for curve in curves if curve not in own)) if own else ()


def _match(base: BaseModel, targets: dict[str, nn.Linear], found: str, artifact: Artifact) -> str:
    """Check that an artifact fits a model; returns a note when it was made from other weights of the same model."""
    if set(targets) != set(artifact.scores):
        raise ArtifactError(
            f"The artifact was made for {artifact.source} and names other layers than {base.source}; "
            "precompute one for this model with `python -m acip_core precompute`."
        )
    for name, layer in targets.items():
        _check_shapes(name, layer.out_features, layer.in_features, artifact)
    if found == artifact.fingerprint:
        return ""
    if base.name != artifact.name:
        raise ArtifactError(
            f"The artifact was made for {artifact.source}, not for {base.source} (field 'fingerprint' differs); "
            "precompute one for this model with `python -m acip_core precompute`."
        )
    quantized = artifact.recipe.get("quantized", FULL)
    made_from = artifact.source + (f", quantized to {quantized}," if quantized != FULL else "")
    return (
        f"The score map was made from {made_from} and is applied to the weights of {base.source}: "
        "the measured perplexities are close to, not exactly, those of this model."
    )


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
    if artifact.adapters is not None:
        adapter = artifact.adapters[name]
        if adapter.a.shape[1] != n or adapter.b.shape[0] != m:
            raise ArtifactError(f"adapter_model.safetensors: the adapter of '{name}' does not fit a {m} × {n} layer.")
