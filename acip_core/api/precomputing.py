"""An artifact from one call: the run behind `acip precompute`, to its end."""

from __future__ import annotations

from pathlib import Path

from ..paths import local_path
from ..pipelines.precompute import precompute as run
from ..pipelines.recipes import DEFAULT_RECIPE, PrecomputeConfig
from ..progress import finish
from .arguments import OnProgress


def precompute(
    model: str | Path | None = None,
    config: PrecomputeConfig | None = None,
    *,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Make the artifact of a model, to the end: order its singular directions, train factors, measure its curve.

    Takes minutes to hours; a run that was interrupted continues where it was when it is called again.

    Args:
        model: Hub id (`org/model`, `org/model@revision`), local folder or GGUF file; the embedded default when left
            out.
        config: how; `pipelines.recipes.DEFAULT_RECIPE` by default, `QUICK` there for a first look.
        output_dir: where the artifact goes; the folder where `AcipModel.from_pretrained` finds it by default.
        overwrite: replace an artifact of other weights that lies there.
        on_progress: called with every step.

    Returns:
        The artifact's folder.

    Raises:
        ModelError, CorpusError, ArtifactError, PrecisionError, StorageError: one sentence each; finished stages stay.
    """
    source = None if model is None else str(model)
    folder = None if output_dir is None else local_path(output_dir)
    return finish(run(source, config or DEFAULT_RECIPE, folder, overwrite), on_progress)
