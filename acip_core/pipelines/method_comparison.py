"""Score maps of all methods on the same model, text and size accounting, measured one after the other, resumable.

Every method is a basis and a score map, cut without adapters and with adapters that are trained on the same number of
tokens for each. Besides perplexity, which adapters can lower by adapting to the text, every cut is measured by its
divergence from the full model and by how often both predict the same token.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..artifacts.artifact import Artifact
from ..artifacts.comparison import FILE, Comparison, Result, read_comparison, write_comparison
from ..artifacts.loading import find_artifact
from ..data.corpus import corpus_windows
from ..data.framing import framing
from ..errors import ArtifactError, SizeError
from ..evaluation.fidelity import Fidelity, full_logits, measure_fidelity
from ..evaluation.methods import current_id
from ..model.base_model import BaseModel, load_base
from ..model.context import fitting_window
from ..model.elastic_model import AdapterWeights, ElasticModel, build_elastic
from ..model.factorization import Factors, factorize
from ..model.second_moments import Basis, plain_basis
from ..model.target_layers import named_layers
from ..paths import cache_dir
from ..progress import Progress, Steps
from ..scoring.acip import AcipResult, acip_scores
from ..scoring.asvd import asvd_basis, asvd_scores
from ..scoring.baselines import gradient_scores, svd_magnitude_scores, uniform_scores
from ..scoring.dobi import dobi_scores
from ..scoring.envelope import envelope_scores
from ..scoring.fisher import fisher_gains
from ..scoring.iterative import iterative_scores
from ..scoring.pruning_config import PAPER, SMALL, PruningConfig
from ..storage.atomic import agrees, atomic_path, read_kept
from ..storage.verified import read_tensors, save_tensors
from ..training.adapters import AdapterConfig, train_adapters

Scores = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ComparisonConfig:
    """What every method is given.

    Attributes:
        ratios: sizes to be measured, adapters counted.
        corpora: names or files, as `corpus.documents`.
        window: tokens per window.
        score_windows: calibration windows per corpus for scores and second moments.
        held_out_windows: windows per corpus that results are measured on.
        adapters: how adapters are trained for every method.
        small, published: settings of the two pruning runs.
    """

    ratios: tuple[float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    corpora: tuple[str, ...] = ("c4", "wikipedia")
    window: int = 512
    score_windows: int = 32
    held_out_windows: int = 32
    adapters: AdapterConfig = field(default_factory=lambda: AdapterConfig(steps=120))
    small: PruningConfig = SMALL
    # As published but for the batch: one window a step instead of 4 of 1,024 tokens.
    published: PruningConfig = field(
        default_factory=lambda: replace(PAPER, batch=1, window=512, micro_batch=1, post_steps=120)
    )


def compare(
    source: str | None = None,
    artifact: Path | None = None,
    budget: ComparisonConfig = ComparisonConfig(),
    methods: tuple[str, ...] | None = None,
) -> Steps[Comparison]:
    """Measure every method at every size; results are written to the artifact's folder as they come.

    A later call with the same budget continues: what is in `comparison.json` is not measured again.

    Args:
        source: as `load_base`.
        artifact: folder of the artifact; `precomputed/<model>` by default.
        methods: some of `METHODS`; all by default.

    Raises:
        ModelError, CorpusError, ArtifactError, StorageError: one sentence each; results so far are kept.
    """
    chosen = tuple(METHODS if methods is None else map(current_id, methods))
    if unknown := [name for name in chosen if name not in METHODS]:
        raise ArtifactError(f"Unknown method '{unknown[0]}'; choose among {', '.join(METHODS)}.")
    yield Progress("loading the model", 0, 1)
    base = load_base(source)
    found = find_artifact(base, artifact, own=True)
    run = ComparisonRun(source, base, found.artifact, budget, found.folder / FILE)
    del base, found
    if any(run.missing(name) for name in chosen):
        yield from run.measure_base()
    for name in chosen:
        if run.missing(name):
            yield from METHODS[name](run, name)
    return run.comparison()


class ComparisonRun:
    """One comparison: the model, the text, the results so far."""

    def __init__(self, source: str | None, base: BaseModel, artifact: Artifact, budget: ComparisonConfig, path: Path):
        self.source, self.artifact, self.budget, self.path = source, artifact, budget, path
        targets = named_layers(base.model, artifact.scores)
        self.weights = {name: layer.weight.detach().clone() for name, layer in targets.items()}
        self.shapes = {name: (w.shape[0], w.shape[1]) for name, w in self.weights.items()}
        self.model, self.tokenizer = base.model, base.tokenizer
        self.calibration = {c: self._windows(c, "calibration", None) for c in budget.corpora}
        self.held_out = {c: self._windows(c, "held-out", budget.held_out_windows) for c in budget.corpora}
        facts = asdict(budget) | {"fingerprint": artifact.fingerprint, "machine": platform.machine()}
        facts["framing"] = framing(base.tokenizer).described(base.tokenizer)
        self.facts = json.loads(json.dumps(facts))
        identity = json.dumps([self.facts, artifact.recipe], default=str)
        self.work = cache_dir() / "compare" / f"{base.name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        kept = read_comparison(path.parent)
        same = kept is not None and agrees(kept.budget, self.facts, json.loads(json.dumps(asdict(ComparisonConfig()))))
        self.results = list(kept.results) if kept is not None and same else []
        made = hashlib.sha256(json.dumps([artifact.recipe, [asdict(c) for c in artifact.curves]]).encode()).hexdigest()
        if kept is not None and kept.budget.get("artifact") != made:
            self.results = [r for r in self.results if r.method != "artifact"]
        self.facts["artifact"] = made
        self.base_perplexity = kept.base_perplexity if kept is not None and same else {}
        self.teacher: dict[str, torch.Tensor] = {}

    def _windows(self, corpus: str, split: str, count: int | None, length: int | None = None) -> torch.Tensor:
        length = fitting_window(self.model, length or self.budget.window)
        return corpus_windows(self.tokenizer, corpus, split, length, count)

    def score_windows(self) -> torch.Tensor:
        return torch.cat([windows[: self.budget.score_windows] for windows in self.calibration.values()])

    def missing(self, method: str) -> bool:
        variants = {(r.adapters, r.corpus, r.wanted) for r in self.results if r.method == method}
        return len(variants) < _VARIANTS[method] * len(self.budget.corpora) * len(self.budget.ratios)

    def fresh(self) -> BaseModel:
        return load_base(self.source)

    def measure_base(self) -> Steps[None]:
        """Logits of the full model on the held-out text, kept in memory for the comparisons."""
        base = self.fresh()
        for corpus, windows in self.held_out.items():
            self.teacher[corpus], self.base_perplexity[corpus] = yield from full_logits(base.model, windows, corpus)

    def measure(self, elastic: ElasticModel, method: str, adapters: bool, ratios: tuple[float, ...]) -> Steps[None]:
        for ratio in ratios:
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
        return Comparison(self.facts, self.base_perplexity, tuple(self.results))

    def kept(self, name: str, steps: Steps[Scores]) -> Steps[Scores]:
        """A score map from this machine's cache, made when it is not there."""
        path = self.work / f"{name}.safetensors"
        if (kept := read_kept(path, lambda kept: read_tensors(kept)[0])) is not None:
            return kept
        scores = yield from steps
        with atomic_path(path) as temporary:
            save_tensors(scores, temporary)
        return scores

    def prune(
        self, name: str, factors: dict[str, Factors], settings: PruningConfig, warm: Scores | None
    ) -> Steps[AcipResult]:
        """A pruning run on all calibration text; continues from its checkpoint."""
        texts = [self._windows(corpus, "calibration", None, settings.window) for corpus in self.budget.corpora]
        checkpoint = self.work / f"{name}-run.safetensors"
        return (yield from acip_scores(self.fresh(), factors, torch.cat(texts), settings, warm, checkpoint))

    def both(
        self,
        method: str,
        factors: dict[str, Factors],
        scores: Scores,
        adapters: dict[str, AdapterWeights] | None = None,
    ) -> Steps[None]:
        """Measure a score map without adapters, then with: the given ones or such as are trained for it."""
        elastic = yield from build_elastic(self.fresh(), factors, scores)
        yield from self.measure(elastic, method, False, self.budget.ratios)
        if adapters is None:
            checkpoint = self.work / f"{method}-adapters.safetensors"
            windows = torch.cat(list(self.calibration.values()))
            trained = yield from train_adapters(elastic, windows, self.budget.adapters, checkpoint)
            adapters = trained.weights
        elastic.install(adapters)
        yield from self.measure(elastic, method, True, self.budget.ratios)


def _artifact(run: ComparisonRun, name: str) -> Steps[None]:
    factors = yield from factorize(run.weights, run.artifact.basis)
    elastic = yield from build_elastic(run.fresh(), factors, run.artifact.scores, run.artifact.adapters)
    yield from run.measure(elastic, name, run.artifact.adapters is not None, run.budget.ratios)


def _iterated(run: ComparisonRun, name: str) -> Steps[None]:
    """Fisher information measured anew at ever smaller sizes, on as much text as the other score maps."""
    factors = yield from factorize(run.weights, run.artifact.basis)
    steps = iterative_scores(run.fresh().model, factors, run.score_windows(), run.budget.adapters.rank)
    yield from run.both(name, factors, (yield from run.kept(name, steps)))


def _pruned(run: ComparisonRun, name: str) -> Steps[None]:
    """A pruning run that starts from the Fisher ranking; its adapters are trained anew, at random sizes."""
    factors = yield from factorize(run.weights, run.artifact.basis)
    warm = yield from _densities(run, factors)
    result = yield from run.prune(name, factors, run.budget.small, warm)
    yield from run.both(name, factors, result.scores)


def _published(run: ComparisonRun, name: str) -> Steps[None]:
    """The pruning run of the paper, on the plain SVD and with its own adapters."""
    factors = yield from factorize(run.weights, plain_basis(run.weights))
    result = yield from run.prune(name, factors, run.budget.published, None)
    yield from run.both(name, factors, result.scores, result.adapters)


def _simple(
    basis: Callable[[ComparisonRun], Basis], score: Callable[[ComparisonRun, dict[str, Factors]], Steps[Scores]]
):
    def method(run: ComparisonRun, name: str) -> Steps[None]:
        factors = yield from factorize(run.weights, basis(run))
        scores = yield from run.kept(name, score(run, factors))
        yield from run.both(name, factors, scores)

    return method


def _ours(run: ComparisonRun, name: str) -> Steps[None]:
    factors = yield from factorize(run.weights, run.artifact.basis)
    gains = yield from _gains(run, factors)
    yield from run.both(name, factors, {n: envelope_scores(gain, run.shapes[n]) for n, gain in gains.items()})


def _gains(run: ComparisonRun, factors: dict[str, Factors]) -> Steps[Scores]:
    return (yield from run.kept("gains", fisher_gains(run.fresh().model, factors, run.score_windows())))


def _densities(run: ComparisonRun, factors: dict[str, Factors]) -> Steps[Scores]:
    gains = yield from _gains(run, factors)
    return {layer: gain / sum(run.shapes[layer]) for layer, gain in gains.items()}


def _asvd(run: ComparisonRun, name: str) -> Steps[None]:
    basis = yield from asvd_basis(run.fresh().model, run.score_windows(), layers=run.weights)
    factors = yield from factorize(run.weights, basis)
    windows = torch.cat([windows[:1] for windows in run.calibration.values()])
    scores = yield from run.kept(name, asvd_scores(run.fresh(), factors, windows))
    yield from run.both(name, factors, scores)


def _dobi(run: ComparisonRun, name: str) -> Steps[None]:
    """One run per size; it has no adapters."""
    factors = yield from factorize(run.weights, run.artifact.basis)
    for ratio in run.budget.ratios:
        steps = dobi_scores(run.fresh(), factors, torch.cat(list(run.calibration.values())), ratio)
        scores = yield from run.kept(f"{name}-{ratio}", steps)
        elastic = yield from build_elastic(run.fresh(), factors, scores)
        yield from run.measure(elastic, name, False, (ratio,))


def _magnitude(run: ComparisonRun, name: str) -> Steps[None]:
    """Without adapters: nothing is left for them to repair."""
    factors = yield from factorize(run.weights, plain_basis(run.weights))
    elastic = yield from build_elastic(run.fresh(), factors, svd_magnitude_scores(factors))
    yield from run.measure(elastic, name, False, run.budget.ratios)


def _done(scores: Scores) -> Steps[Scores]:
    yield Progress("ranking", 1, 1)
    return scores


def _activation(run: ComparisonRun) -> Basis:
    return run.artifact.basis


METHODS: dict[str, Callable[[ComparisonRun, str], Steps[None]]] = {
    "artifact": _artifact,
    "fisher-envelope": _ours,
    "fisher-iterated": _iterated,
    "acip-small": _pruned,
    "fisher-density": _simple(_activation, _densities),
    "svd-llm": _simple(_activation, lambda run, f: _done(uniform_scores(f, run.shapes))),
    "gradient": _simple(
        _activation,
        lambda run, f: gradient_scores(run.fresh().model, f, run.score_windows()),
    ),
    "dobi-svd": _dobi,
    "acip": _published,
    "asvd": _asvd,
    "svd-magnitude": _magnitude,
}
_VARIANTS = {name: 1 if name in ("artifact", "dobi-svd", "svd-magnitude") else 2 for name in METHODS}
