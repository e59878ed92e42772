"""One comparison of methods: its settings, the model and the text that all share, what is measured so far."""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..artifacts.artifact import Artifact
from ..artifacts.comparison import Comparison, Result, read_comparison, write_comparison
from ..artifacts.knowledge import made_from
from ..data.corpus import corpus_windows
from ..data.framing import framing
from ..errors import SizeError
from ..evaluation.fidelity import Fidelity, full_logits, measure_fidelity
from ..model.base_model import BaseModel, load_base
from ..model.context import fitting_window
from ..model.elastic_model import AdapterWeights, ElasticModel
from ..model.factor_cache import cached_factors
from ..model.factorization import Factors
from ..model.second_moments import Basis, basis_values
from ..model.size_planner import DIRECTIONS
from ..model.target_layers import named_layers
from ..progress import Steps
from ..scoring.acip import AcipResult, acip_scores
from ..scoring.pruning_config import PAPER, SMALL, PruningConfig
from ..storage.atomic import same_settings
from ..storage.digests import cache_key, digest
from ..storage.resumable import ResumableRun
from ..training.aa_svd import AaSvdConfig
from ..training.adapters import AdapterConfig, train_adapters
from ..training.distillation import window_at
from ..training.factors import FactorConfig

Scores = dict[str, torch.Tensor]
# The others are measured with adapters and without.
_ONE_VARIANT = ("artifact", "factors", "dobi-svd", "aa-svd", "svd-magnitude")


@dataclass(frozen=True)
class ComparisonConfig:
    """Settings of a comparison, the same for every method.

    Attributes:
        ratios: sizes to be measured, adapters counted.
        corpora: names or files, as `corpus.documents`.
        window: tokens per window.
        score_windows: calibration windows per corpus for scores and second moments.
        held_out_windows: windows per corpus that results are measured on.
        adapters: how adapters are trained for every method; whatever else is trained reads the very same windows.
        factors: how factors are trained, in as many steps as these windows give.
        aa_svd: how AA-SVD refines its blocks.
        small, published: settings of the two pruning runs.
    """

    ratios: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    corpora: tuple[str, ...] = ("c4", "wikipedia")
    window: int = 512
    score_windows: int = 32
    held_out_windows: int = 32
    adapters: AdapterConfig = field(default_factory=lambda: AdapterConfig(steps=120))
    factors: FactorConfig = field(default_factory=lambda: FactorConfig(batch=4))
    aa_svd: AaSvdConfig = field(default_factory=AaSvdConfig)
    small: PruningConfig = SMALL
    # As published but for the batch: one window a step instead of 4 of 1,024 tokens.
    published: PruningConfig = field(
        default_factory=lambda: replace(PAPER, batch=1, window=512, micro_batch=1, post_steps=120)
    )


class ComparisonRun:
    """One comparison: the model, the text, the results so far.

    Attributes:
        ratios: sizes to be measured now, some of the budget's.
    """

    def __init__(
        self,
        source: str | None,
        base: BaseModel,
        artifact: Artifact,
        budget: ComparisonConfig,
        path: Path,
        ratios: tuple[float, ...],
    ):
        self.ratios = ratios
        self.source, self.artifact, self.budget, self.path = source, artifact, budget, path
        targets = named_layers(base.model, artifact.scores)
        self.weights, self.shapes = targets.weight_copies(), targets.shapes
        self.model, self.tokenizer = base.model, base.tokenizer
        self.calibration = {c: self._windows(c, "calibration", None) for c in budget.corpora}
        self.held_out = {c: self._windows(c, "held-out", budget.held_out_windows) for c in budget.corpora}
        facts = asdict(budget) | {"fingerprint": artifact.fingerprint, "machine": platform.machine()}
        facts["framing"] = framing(base.tokenizer).described(base.tokenizer)
        text = *self.calibration.values(), *self.held_out.values()
        # Between two runs a text's file may be edited, and the artifact made anew in another basis.
        facts["shared"] = cache_key(*text, basis_values(artifact.basis))
        self.facts = json.loads(json.dumps(facts))
        made = made_from(path.parent, DIRECTIONS)
        self.resumable = ResumableRun.of("compare", base.name, [self.facts, artifact.recipe], made)
        written = read_comparison(path.parent)
        standard = json.loads(json.dumps(asdict(ComparisonConfig())))
        if written is not None and not same_settings(written.budget, self.facts, standard):
            written = None
        self.results = list(written.results) if written is not None else []
        self.base_perplexity = written.base_perplexity if written is not None else {}
        self.facts["artifact"] = digest([artifact.recipe, made])
        if written is not None and written.budget.get("artifact") != self.facts["artifact"]:
            self.results = [r for r in self.results if r.method != "artifact"]
        self.teacher: dict[str, torch.Tensor] = {}

    def _windows(self, corpus: str, split: str, count: int | None, length: int | None = None) -> torch.Tensor:
        length = fitting_window(self.model, length or self.budget.window)
        return corpus_windows(self.tokenizer, corpus, split, length, count)

    def score_windows(self) -> torch.Tensor:
        """(windows, tokens): the first calibration windows of every corpus."""
        return torch.cat([windows[: self.budget.score_windows] for windows in self.calibration.values()])

    def training_windows(self) -> torch.Tensor:
        """The windows that adapters are trained on, each as often as they read it."""
        windows, s = torch.cat(list(self.calibration.values())), self.budget.adapters
        return windows[[window_at(index, len(windows), s.seed) for index in range(s.steps * s.batch)]]

    def missing(self, method: str) -> tuple[float, ...]:
        """Sizes at which a method lacks results."""
        count = (1 if method in _ONE_VARIANT else 2) * len(self.budget.corpora)
        found = Counter(r.wanted for r in self.results if r.method == method)
        return tuple(ratio for ratio in self.ratios if found[ratio] < count)

    def fresh(self) -> BaseModel:
        """The model loaded anew, untouched by the methods before."""
        return load_base(self.source)

    def factors(self, basis: Basis, gradients: Basis | None = None) -> Steps[dict[str, Factors]]:
        """Of the model's weights, from this machine's cache: most methods share a basis."""
        return dict((yield from cached_factors(self.weights, self.artifact.fingerprint, basis, gradients)))

    def measure_base(self) -> Steps[None]:
        """Logits of the full model on the held-out text, kept in memory for the comparisons."""
        base = self.fresh()
        for corpus, windows in self.held_out.items():
            self.teacher[corpus], self.base_perplexity[corpus] = yield from full_logits(base.model, windows, corpus)

    def measure(
        self, elastic: ElasticModel, method: str, adapters: bool, ratios: tuple[float, ...] | None = None
    ) -> Steps[None]:
        """Measure a model at these sizes, by default at all; what has been measured is left out."""
        for ratio in self.ratios if ratios is None else ratios:
            try:
                plan = elastic.planner.at_ratio(ratio)
            except SizeError:  # the adapters alone are larger
                continue
            for corpus, windows in self.held_out.items():
                key = (method, adapters, corpus, ratio)
                if any((r.method, r.adapters, r.corpus, r.wanted) == key for r in self.results):
                    continue
                with elastic.at(plan):
                    label = f"measuring {method}{'+adapters' if adapters else ''} at {ratio:.0%}, {corpus}"
                    found: Fidelity = yield from measure_fidelity(elastic.model, windows, self.teacher[corpus], label)
                size = (plan.ratio, plan.parameters, plan.bytes)
                self.results.append(Result(*key, *size, found.perplexity, found.divergence, found.agreement))
                write_comparison(self.comparison(), self.path.parent)

    def comparison(self) -> Comparison:
        """All that has been measured, as the artifact keeps it."""
        return Comparison(self.facts, self.base_perplexity, tuple(self.results))

    def prune(
        self, name: str, factors: dict[str, Factors], settings: PruningConfig, warm: Scores | None
    ) -> Steps[AcipResult]:
        """A pruning run on all calibration text; continues from its checkpoint."""
        texts = [self._windows(corpus, "calibration", None, settings.window) for corpus in self.budget.corpora]
        checkpoint = self.resumable.path(f"{name}-run.safetensors")
        return (yield from acip_scores(self.fresh(), factors, torch.cat(texts), settings, warm, checkpoint))

    def measure_both(
        self, method: str, elastic: ElasticModel, adapters: dict[str, AdapterWeights] | None = None
    ) -> Steps[None]:
        """Measure a model without adapters, then with the given ones or, by default, newly trained ones."""
        yield from self.measure(elastic, method, False)
        if adapters is None:
            checkpoint = self.resumable.path(f"{method}-adapters.safetensors")
            windows = torch.cat(list(self.calibration.values()))
            trained = yield from train_adapters(elastic, windows, self.budget.adapters, checkpoint)
            adapters = trained.weights
        elastic.install(adapters)
        yield from self.measure(elastic, method, True)
