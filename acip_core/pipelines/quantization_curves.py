"""The perplexity of an artifact's sizes at fewer bits, added to its curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..artifacts.completions import read_completions, write_completions
from ..artifacts.loading import open_model
from ..artifacts.reader import read_artifact
from ..artifacts.writer import write_artifact
from ..data.corpus import corpus_windows
from ..errors import ArtifactError
from ..evaluation.curves import Curve, primary_curves
from ..evaluation.perplexity import WINDOW
from ..model.context import fitting_window
from ..model.quantization import FULL, at_precision
from ..progress import Steps
from ..storage.resumable import ResumableRun, only_run
from .measured_curves import measured_curve
from .recipes import COARSE


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
    folder = loaded.folder
    old = read_artifact(folder)
    full = primary_curves(old.curves)
    if precision == FULL or not full:
        raise ArtifactError(f"{folder} has no curve to set another beside, or it is that of `{FULL}` itself.")
    window = fitting_window(loaded.elastic.model, old.recipe.get("window", WINDOW))
    run = ResumableRun.of("precision", old.name, old.fingerprint, precision, old.recipe)
    method = at_precision(full[0].method, precision)
    with only_run(folder):
        curves = []
        for reference in full:
            count = reference.tokens // (window - 1)
            windows = corpus_windows(loaded.elastic.tokenizer, reference.corpus, "held-out", window, count)
            label = (method, reference.corpus, "held-out")
            curve = yield from measured_curve(loaded.elastic, windows, ratios, label, run)
            curves.append(replace(curve, base_perplexity=reference.base_perplexity))
        others = [curve for curve in old.curves if curve.method != method]
        completions = read_completions(folder)
        new = replace(old, curves=(*others, *curves))
        write_artifact(new, folder, lambda place: write_completions(completions, place))
        run.remove()
    return curves
