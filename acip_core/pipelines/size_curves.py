"""The curves of an artifact measured on the model itself: its own again, or those at fewer bits beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..artifacts.artifact import Artifact
from ..artifacts.completions import read_completions, write_completions
from ..artifacts.knowledge import made_from
from ..artifacts.loading import Loaded, open_model
from ..artifacts.reader import read_artifact
from ..artifacts.recounting import recounted
from ..artifacts.writer import rewrite_curves, write_artifact
from ..data.corpus import corpus_windows
from ..errors import ArtifactError
from ..evaluation.curves import Curve, primary_curves
from ..evaluation.perplexity import WINDOW
from ..model.context import fitting_window
from ..model.quantization import FULL, at_precision
from ..model.size_planner import DIRECTIONS
from ..progress import Steps
from ..storage.locks import only_run
from ..storage.resumable import ResumableRun
from .recipes import COARSE, FINE
from .resumable_curve import measured_curve, with_fidelity


def measure_curves(source: str | None, artifact: Path | None = None) -> Steps[list[Curve]]:
    """Measure the artifact's own curves anew, at their sizes and on their text, and write them into it.

    Continues where it was.

    Args:
        source: as `load_base`.
        artifact: its folder; that of the model's name by default.

    Returns:
        One curve per corpus of the artifact.

    Raises:
        ModelError, ArtifactError, CorpusError, StorageError: one sentence each; points are kept.
    """
    loaded = yield from open_model(source, artifact, same_weights=True)
    old = _recounted(loaded)
    former, run = _own(loaded, old, "curves")
    with only_run(loaded.folder):
        curves = yield from _measure(loaded, old, former[0].method, old.recipe.get("ratios", FINE), run)
        curves = yield from _compare(loaded, curves, run)
        _write(loaded.folder, old, (*curves, *(curve for curve in old.curves if curve not in former)), run)
    return curves


def measure_agreement(source: str | None, artifact: Path | None = None) -> Steps[list[Curve]]:
    """Compare the sizes of the artifact's own curves with the full model, and write that beside their perplexity.

    Continues where it was.

    Args:
        source: as `load_base`.
        artifact: its folder; that of the model's name by default.

    Returns:
        One curve per corpus of the artifact.

    Raises:
        ModelError, ArtifactError, CorpusError, StorageError: one sentence each; points are kept.
    """
    loaded = yield from open_model(source, artifact, same_weights=True)
    old = read_artifact(loaded.folder)
    former, run = _own(loaded, old, "agreement")
    with only_run(loaded.folder):
        curves = yield from _compare(loaded, former, run)
        rewrite_curves((*curves, *(curve for curve in old.curves if curve not in former)), loaded.folder)
        run.remove()
    return curves


def measure_precision(
    source: str | None,
    precision: str,
    artifact: Path | None = None,
    ratios: Sequence[float] = COARSE,
) -> Steps[list[Curve]]:
    """Measure the artifact's sizes at a precision on the text of its curves and add the curves to it.

    Continues where it was.

    Args:
        source: as `load_base`.
        precision: one of `quantization.precisions()` but `full`.
        artifact: its folder; that of the model's name by default.

    Returns:
        One curve per corpus of the artifact, relative to the full-precision model.

    Raises:
        ModelError, ArtifactError, PrecisionError, CorpusError, StorageError: one sentence each; points are kept.
    """
    loaded = yield from open_model(source, artifact, precision=precision, same_weights=True)
    old = _recounted(loaded)
    full = primary_curves(old.curves)
    if precision == FULL or not full:
        raise ArtifactError(f"{loaded.folder} has no curve to set another beside, or it is that of `{FULL}` itself.")
    run = _run("precision", loaded, old, precision)
    method = at_precision(full[0].method, precision)
    with only_run(loaded.folder):
        measured = yield from _measure(loaded, old, method, ratios, run)
        pairs = zip(measured, full, strict=True)
        curves = [_beside(curve, reference) for curve, reference in pairs]
        _write(loaded.folder, old, (*(curve for curve in old.curves if curve.method != method), *curves), run)
    return curves


def _beside(curve: Curve, full: Curve) -> Curve:
    """A curve relative to another model than its own at full size, of which its errors say nothing."""
    points = tuple(replace(point, error=None) for point in curve.points)
    return replace(curve, base_perplexity=full.base_perplexity, points=points)


def _own(loaded: Loaded, old: Artifact, purpose: str) -> tuple[list[Curve], ResumableRun]:
    """The artifact's own curves, and a run on them.

    Raises:
        ArtifactError: it has none.
    """
    curves = primary_curves(old.curves)
    if not curves:
        raise ArtifactError(f"{loaded.folder} has no curve to measure; make it again with `acip precompute`.")
    return curves, _run(purpose, loaded, old)


def _run(purpose: str, loaded: Loaded, old: Artifact, *settings: object) -> ResumableRun:
    """A run on the text of the artifact's own curves, of which its recipe holds but names."""
    text = [_text(loaded, curve) for curve in primary_curves(old.curves)]
    made = made_from(loaded.folder, DIRECTIONS)
    return ResumableRun.of(purpose, old.name, old.fingerprint, made, old.recipe, settings, *text)


def _recounted(loaded: Loaded) -> Artifact:
    """The artifact as it is read, its curves with the bytes that their sizes have."""
    read = read_artifact(loaded.folder)
    return replace(read, curves=recounted(read.curves, loaded.elastic))


def _measure(
    loaded: Loaded, old: Artifact, method: str, ratios: Sequence[float], run: ResumableRun
) -> Steps[list[Curve]]:
    """One curve for each of the artifact's own, on the same text."""
    curves = []
    for reference in primary_curves(old.curves):
        label = (method, reference.corpus, reference.split)
        curves.append((yield from measured_curve(loaded.elastic, _text(loaded, reference), ratios, label, run)))
    return curves


def _compare(loaded: Loaded, curves: Sequence[Curve], run: ResumableRun) -> Steps[list[Curve]]:
    """The curves with divergence and agreement."""
    compared = []
    for curve in curves:
        compared.append((yield from with_fidelity(loaded.elastic, _text(loaded, curve), curve, run)))
    return compared


def _text(loaded: Loaded, curve: Curve) -> torch.Tensor:
    """The windows that a curve was measured on."""
    elastic = loaded.elastic
    window = fitting_window(elastic.model, loaded.artifact.recipe.get("window", WINDOW))
    return corpus_windows(elastic.tokenizer, curve.corpus, curve.split, window, curve.tokens // (window - 1))


def _write(folder: Path, old: Artifact, curves: tuple[Curve, ...], run: ResumableRun) -> None:
    completions = read_completions(folder)
    write_artifact(replace(old, curves=curves), folder, lambda place: write_completions(completions, place))
    run.remove()
