"""The artifact's own curves measured again: on another machine, with newer libraries, after an edit."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

from ..artifacts.completions import read_completions, write_completions
from ..artifacts.loading import open_model
from ..artifacts.reader import read_artifact
from ..artifacts.writer import write_artifact
from ..data.corpus import corpus_windows
from ..errors import ArtifactError
from ..evaluation.curves import Curve, own_curves
from ..evaluation.perplexity import WINDOW
from ..model.context import fitting_window
from ..paths import cache_dir
from ..progress import Steps
from .precompute import FINE, kept_curve, only_run


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
    loaded = yield from open_model(source, artifact, own=True)
    elastic, folder, old = loaded.elastic, loaded.folder, read_artifact(loaded.folder)
    former = own_curves(old.curves)
    if not former:
        raise ArtifactError(f"{folder} has no curve to measure again; make it again with `acip precompute`.")
    window, ratios = fitting_window(elastic.model, old.recipe.get("window", WINDOW)), old.recipe.get("ratios", FINE)
    work = cache_dir() / "curves" / hashlib.sha256(f"{old.fingerprint}{old.recipe}".encode()).hexdigest()[:12]
    with only_run(folder):
        curves = []
        for own in former:
            count = own.tokens // (window - 1)
            windows = corpus_windows(elastic.tokenizer, own.corpus, own.split, window, count)
            label = (own.method, own.corpus, own.split)
            curves.append((yield from kept_curve(elastic, windows, ratios, label, work)))
        others = [curve for curve in old.curves if curve not in former]
        completions = read_completions(folder)
        new = replace(old, curves=(*curves, *others))
        write_artifact(new, folder, lambda place: write_completions(completions, place))
        shutil.rmtree(work, ignore_errors=True)
    return curves
