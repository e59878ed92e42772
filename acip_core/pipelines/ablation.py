"""The paper's ablations (arXiv 2502.01717, appendix D) on any model: short pruning runs that differ in one thing each.

Every row is a score map with the adapters of its own run, measured on held-out text at a few sizes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..artifacts.ablation_rows import Row, read_ablation, write_ablation
from ..artifacts.artifact import Artifact
from ..artifacts.loading import find_artifact
from ..data.corpus import corpus_windows
from ..data.framing import framing
from ..errors import ArtifactError
from ..evaluation.perplexity import measure_perplexity
from ..model.base_model import BaseModel, load_base
from ..model.context import fitting_window
from ..model.elastic_model import AdapterWeights, build_elastic
from ..model.factorization import Factors, factorize
from ..model.quantization import FULL, quantize_base
from ..model.target_layers import named_layers
from ..progress import Progress, Steps
from ..scoring.acip import AcipResult, acip_scores
from ..scoring.baselines import gradient_scores
from ..scoring.fisher import fisher_densities
from ..scoring.pruning_config import SMALL, PruningConfig
from ..storage.atomic import same_settings
from ..storage.digests import cache_key
from ..storage.resumable import ResumableRun


@dataclass(frozen=True)
class AblationConfig:
    """Settings that all rows share.

    Attributes:
        pruning: of the run that the others differ from.
        score_windows, held_out_windows: windows per corpus for warm starts and for results.
    """

    pruning: PruningConfig = field(default_factory=lambda: replace(SMALL, post_steps=60))
    ratios: tuple[float, ...] = (0.8, 0.6, 0.4)
    corpora: tuple[str, ...] = ("c4", "wikipedia")
    score_windows: int = 16
    held_out_windows: int = 8


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


def ablate(
    source: str | None = None,
    artifact: Path | None = None,
    settings: AblationConfig = AblationConfig(),
    rows: tuple[str, ...] | None = None,
) -> Steps[tuple[Row, ...]]:
    """Measure the rows, writing each to the artifact's folder as it comes; a later call continues.

    Args:
        rows: some of `VARIANTS`; all by default.

    Raises:
        ModelError, CorpusError, ArtifactError, StorageError: one sentence each; rows so far are kept.
    """
    chosen = tuple(VARIANTS) if rows is None else rows
    if unknown := [name for name in chosen if name not in VARIANTS]:
        raise ArtifactError(f"Unknown ablation '{unknown[0]}'; choose among: {'; '.join(VARIANTS)}.")
    yield Progress("loading the model", 0, 1)
    base = load_base(source)
    found = find_artifact(base, artifact, same_weights=True)
    run = AblationRun(source, base, found.artifact, found.folder, settings)
    del base, found
    for row in chosen:
        if row not in run.rows:
            yield from run.measure(row)
    return tuple(Row(row, run.rows[row]) for row in chosen)


class AblationRun:
    """One set of ablations: the model, the text, the rows so far."""

    def __init__(self, source: str | None, base: BaseModel, artifact: Artifact, folder: Path, settings: AblationConfig):
        self.source, self.settings, self.folder = source, settings, folder
        self.weights = named_layers(base.model, artifact.scores).weight_copies()
        self.basis = artifact.basis
        window, tokenizer = fitting_window(base.model, settings.pruning.window), base.tokenizer
        texts = [corpus_windows(tokenizer, c, "calibration", window) for c in settings.corpora]
        self.calibration = torch.cat(texts)
        self.score_windows = torch.cat([text[: settings.score_windows] for text in texts])
        self.held_out = [
            corpus_windows(tokenizer, c, "held-out", window, settings.held_out_windows) for c in settings.corpora
        ]
        facts = {"fingerprint": artifact.fingerprint, "framing": framing(tokenizer).described(tokenizer)}
        self.facts = json.loads(json.dumps(asdict(settings) | facts))
        self.resumable = ResumableRun.of("ablate", base.name, [self.facts, artifact.recipe])
        written = read_ablation(folder)
        standard = json.loads(json.dumps(asdict(AblationConfig())))
        same = same_settings(written.get("settings"), self.facts, standard)
        self.rows: dict[str, dict[str, float | None]] = written["rows"] if same else {}

    def measure(self, row: str) -> Steps[None]:
        variant, shared = VARIANTS[row], self.settings.pruning
        factors = yield from factorize(self.weights, self.basis)
        result = yield from self._prune(factors, variant.run(shared), variant.quantized)
        scores: Mapping[str, torch.Tensor] = result.scores
        if variant.scores_of == "gradient":
            scores = yield from gradient_scores(load_base(self.source).model, factors, self.score_windows)
        elif variant.scores_of is not None:
            scores = (yield from self._prune(factors, VARIANTS[variant.scores_of].run(shared))).scores
        adapters: Mapping[str, AdapterWeights] | None = result.adapters if variant.adapters else None
        base = load_base(self.source)
        elastic = yield from build_elastic(base, factors, scores, adapters, reset=variant.reset)
        relative: dict[str, float | None] = {}
        for ratio in self.settings.ratios:
            plan = elastic.planner.at_ratio(ratio)
            worst = 0.0
            for index, windows in enumerate(self.held_out):
                full = yield from self.resumable.number(f"base-{index}", self._full_perplexity(windows))
                with elastic.at(plan):
                    for step in measure_perplexity(base.model, windows):
                        yield Progress(f"measuring {row}, {ratio:.0%}", step.done, step.total, f"{step.value:.2f}")
                worst = max(worst, step.value / full)
            relative[f"{ratio:.2f}"] = worst if math.isfinite(worst) else None
        self.rows[row] = relative
        write_ablation({"settings": self.facts, "rows": self.rows}, self.folder)

    def _full_perplexity(self, windows: torch.Tensor) -> Steps[float]:
        model = load_base(self.source).model
        for step in measure_perplexity(model, windows):
            yield Progress("measuring the full model", step.done, step.total)
        return step.value

    def _prune(self, factors: dict[str, Factors], settings: PruningConfig, quantized: str = FULL) -> Steps[AcipResult]:
        """A pruning run; rows with equal settings share it."""
        base = load_base(self.source)
        if quantized != FULL:
            quantize_base(base, quantized)
            factors = yield from factorize(named_layers(base.model, self.weights).weight_copies(), self.basis)
        warm = None
        if settings.warm_start > 0:
            warm = yield from fisher_densities(base.model, factors, self.score_windows)
        checkpoint = self.resumable.path(f"{cache_key(asdict(settings), quantized)}.safetensors")
        return (yield from acip_scores(base, factors, self.calibration, settings, warm, checkpoint))
