"""The paper's ablations (arXiv 2502.01717, appendix D) on any model: short pruning runs that differ in one thing each.

The first rows are score maps with the adapters of their own runs, the others (`ablation_parts`) this project's parts,
without a pruning run; all are measured on held-out text at a few sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ..artifacts.ablation_rows import FILE, PARTS_FILE, Row
from ..artifacts.loading import find_artifact
from ..errors import ArtifactError
from ..model.base_model import load_base
from ..model.elastic_model import AdapterWeights, ElasticModel, build_elastic
from ..model.factorization import Factors, factorize
from ..model.offloading import check_in_memory
from ..model.quantization import FULL, quantize_base
from ..model.target_layers import named_layers
from ..progress import Progress, Steps
from ..scoring.acip import AcipResult, acip_scores
from ..scoring.baselines import gradient_scores
from ..scoring.fisher import fisher_densities
from ..scoring.pruning_config import PruningConfig
from ..storage.digests import cache_key
from ..storage.locks import only_run
from .ablation_parts import PARTS, part_model
from .ablation_run import AblationConfig, AblationRun


@dataclass(frozen=True)
class _Variant:
    """A row's differences: in its run, in the scores it takes, in how it is cut.

    Attributes:
        run: its pruning run's settings, made from those that all share.
        scores_of: another variant whose scores it takes with its own adapters; `gradient` needs no run.
        adapters: whether it is measured with adapters.
        reset: whether layers above break-even return to their dense weight.
        quantized: precision of the weights that are scored; the result is measured on the full ones.
    """

    run: Callable[[PruningConfig], PruningConfig] = lambda s: s
    scores_of: str | None = None
    adapters: bool = True
    reset: bool = True
    quantized: str = FULL


VARIANTS: dict[str, _Variant] = {
    "all as it is": _Variant(),
    "without adapters (D.2)": _Variant(lambda s: replace(s, adapter_learning_rate=0.0, post_steps=0), adapters=False),
    "without reset (D.3)": _Variant(reset=False),
    "stop at 80 % (D.4)": _Variant(lambda s: replace(s, stop_ratio=0.8)),
    "stop at 60 % (D.4)": _Variant(lambda s: replace(s, stop_ratio=0.6)),
    "scores frozen at 80 % (D.5)": _Variant(scores_of="stop at 80 % (D.4)"),
    "scores by accumulated gradient (D.6)": _Variant(scores_of="gradient"),
    "no post-tuning (D.7)": _Variant(lambda s: replace(s, post_steps=0)),
    "twice the post-tuning (D.7)": _Variant(lambda s: replace(s, post_steps=2 * s.post_steps)),
    "up_proj excluded (D.8)": _Variant(lambda s: replace(s, exclude=("up_proj",))),
    "down_proj excluded (D.8)": _Variant(lambda s: replace(s, exclude=("down_proj",))),
    "scored in nf4, measured in full (3.4)": _Variant(quantized="nf4"),
}


def _pruned(run: AblationRun, row: str) -> Steps[ElasticModel]:
    """What a pruning run makes of the model."""
    variant, shared = VARIANTS[row], run.settings.pruning
    factors = yield from factorize(run.weights, run.basis)
    result = yield from _prune(run, factors, variant.run(shared), variant.quantized)
    scores: Mapping[str, torch.Tensor] = result.scores
    if variant.scores_of == "gradient":
        scores = yield from gradient_scores(run.fresh().model, factors, run.score_windows)
    elif variant.scores_of is not None:
        scores = (yield from _prune(run, factors, VARIANTS[variant.scores_of].run(shared))).scores
    adapters: Mapping[str, AdapterWeights] | None = result.adapters if variant.adapters else None
    return (yield from build_elastic(run.fresh(), factors, scores, adapters, reset=variant.reset))


def _prune(
    run: AblationRun, factors: dict[str, Factors], settings: PruningConfig, quantized: str = FULL
) -> Steps[AcipResult]:
    """A pruning run; rows with equal settings share it."""
    base = run.fresh()
    if quantized != FULL:
        quantize_base(base, quantized)
        factors = yield from factorize(named_layers(base.model, run.weights).weight_copies(), run.basis)
    warm = None
    if settings.warm_start > 0:
        warm = yield from fisher_densities(base.model, factors, run.score_windows)
    checkpoint = run.resumable.path(f"{cache_key(asdict(settings), quantized)}.safetensors")
    return (yield from acip_scores(base, factors, run.calibration, settings, warm, checkpoint))


ROWS: dict[str, Callable[[AblationRun], Steps[ElasticModel]]] = {
    **{name: partial(_pruned, row=name) for name in VARIANTS},
    **{name: partial(part_model, part=part) for name, part in PARTS.items()},
}


def ablate(
    source: str | None = None,
    artifact: Path | None = None,
    settings: AblationConfig = AblationConfig(),
    rows: tuple[str, ...] | None = None,
) -> Steps[tuple[Row, ...]]:
    """Measure the rows, writing each to the artifact's folder as it comes; a later call continues.

    Args:
        rows: some of `ROWS`; all by default.

    Raises:
        ModelError, CorpusError, ArtifactError, StorageError: one sentence each; rows so far are kept.
    """
    chosen = tuple(ROWS) if rows is None else rows
    if unknown := [name for name in chosen if name not in ROWS]:
        raise ArtifactError(f"Unknown ablation '{unknown[0]}'; choose among: {'; '.join(ROWS)}.")
    measured: dict[str, dict[str, float | None]] = {}
    for file, kind in ((FILE, VARIANTS), (PARTS_FILE, PARTS)):
        if of_file := [row for row in chosen if row in kind]:
            measured |= yield from _measured(source, artifact, settings, file, of_file)
    return tuple(Row(row, measured[row]) for row in chosen)


def _measured(
    source: str | None, artifact: Path | None, settings: AblationConfig, file: str, rows: list[str]
) -> Steps[dict[str, dict[str, float | None]]]:
    """All rows of a file, after those that were missing were measured."""
    yield Progress("loading the model", 0, 1)
    base = load_base(source)
    check_in_memory(base.model, "pruning runs")
    found = find_artifact(base, artifact, same_weights=True)
    with only_run(found.folder):  # from reading on: all rows are written anew with each
        run = AblationRun(source, base, found.artifact, found.folder, settings, file)
        del base, found
        for row in rows:
            if row not in run.rows:
                yield from run.measure(row, (yield from ROWS[row](run)))
    return run.rows
