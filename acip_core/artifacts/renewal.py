"""Digests for an artifact that has none, or whose files were edited on purpose; no figure changes."""

from __future__ import annotations

from pathlib import Path

from .ablation_rows import FILE, PARTS_FILE, read_ablation, write_ablation
from .comparison import read_comparison, write_comparison
from .completions import read_completions, write_completions
from .task_results import read_evaluation, write_evaluation
from .writer import renew_digests


def renew(folder: Path) -> None:
    """Write all digests in an artifact anew. Files of measurements hold their digests, so they have to be whole.

    Raises:
        ArtifactError: there is no artifact, or what it holds is malformed.
        StorageError: it cannot be written.
    """
    renew_digests(folder)
    if (comparison := read_comparison(folder)) is not None:
        write_comparison(comparison, folder)
    if completions := read_completions(folder):
        write_completions(completions, folder)
    if evaluation := read_evaluation(folder):
        write_evaluation(evaluation, folder)
    for file in (FILE, PARTS_FILE):
        if ablation := read_ablation(folder, file):
            write_ablation(ablation, folder, file)
