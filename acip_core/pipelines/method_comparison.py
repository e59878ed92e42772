"""Score maps of all methods on the same model, text and size accounting, measured one after the other, resumable.

Every method is a basis and a score map, cut without adapters and with adapters that are trained on the same number of
tokens for each. Besides perplexity, which adapters can lower by adapting to the text, every cut is measured by its
divergence from the full model and by how often both predict the same token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..artifacts.comparison import FILE, Comparison
from ..artifacts.loading import find_artifact
from ..errors import ArtifactError, SizeError
from ..evaluation.methods import current_id
from ..model.base_model import load_base
from ..model.coding_moments import measure_coding_moments, read_coding_moments, save_coding_moments
from ..model.elastic_model import AdapterWeights, ElasticModel, build_elastic
from ..model.factorization import Factors, factorize
from ..model.offloading import check_in_memory
from ..model.second_moments import plain_basis
from ..progress import Progress, Steps
from ..scoring.asvd import asvd_basis, asvd_scores
from ..scoring.baselines import gradient_scores, svd_magnitude_scores, uniform_scores
from ..scoring.dobi import dobi_scores
from ..scoring.envelope import envelope_scores
from ..scoring.fisher import fisher_gains
from ..scoring.iterative import iterative_scores
from ..scoring.predicted import predicted_scores
from ..storage.locks import only_run
from ..training.aa_svd import aa_svd
from ..training.factors import train_factors
from .comparison_run import ComparisonConfig, ComparisonRun, Scores


def compare(
    source: str | None = None,
    artifact: Path | None = None,
    budget: ComparisonConfig = ComparisonConfig(),
    methods: tuple[str, ...] | None = None,
    sizes: tuple[float, ...] | None = None,
) -> Steps[Comparison]:
    """Measure every method at every size; results are written to the artifact's folder as they come.

    A later call with the same budget continues: what is in `comparison.json` is not measured again.

    Args:
        source: as `load_base`.
        artifact: folder of the artifact; `precomputed/<model>` by default.
        methods: some of `METHODS`; all by default.
        sizes: some of the budget's; all by default.

    Raises:
        SizeError: the budget has no such size.
        ModelError, CorpusError, ArtifactError, StorageError: one sentence each; results so far are kept.
    """
    chosen = tuple(METHODS if methods is None else map(current_id, methods))
    if unknown := [name for name in chosen if name not in METHODS]:
        raise ArtifactError(f"Unknown method '{unknown[0]}'; choose among {', '.join(METHODS)}.")
    ratios = budget.ratios if sizes is None else sizes
    if unmeasured := [ratio for ratio in ratios if ratio not in budget.ratios]:
        have = ", ".join(f"{ratio:g}" for ratio in budget.ratios)
        raise SizeError(f"Methods are not compared at a size of {unmeasured[0]:g}; choose among {have}.")
    yield Progress("loading the model", 0, 1)
    base = load_base(source)
    check_in_memory(base.model, "comparison lines")
    found = find_artifact(base, artifact, same_weights=True)
    with only_run(found.folder):  # from reading on: all results are written anew with each
        run = ComparisonRun(source, base, found.artifact, budget, found.folder / FILE, ratios)
        del base, found
        if any(run.missing(name) for name in chosen):
            yield from run.measure_base()
        for name in chosen:
            if run.missing(name):
                yield from METHODS[name](run, name)
    return run.comparison()


def _artifact(run: ComparisonRun, name: str) -> Steps[None]:
    own = run.artifact
    factors = yield from run.factors(own.basis, own.gradients)
    elastic = yield from build_elastic(
        run.fresh(), factors, own.scores, own.adapters, updates=own.updates, pivoted=own.pivoted
    )
    yield from run.measure(elastic, name, own.adapters is not None)


def _two_sided(run: ComparisonRun, pivoted: bool) -> Steps[ElasticModel]:
    """In K-FAC's basis, whose own prediction is the score map; gradients are measured on the other score maps' text.

    Args:
        pivoted: count ranks as this project stores them; others store k (m + n) numbers.
    """
    basis = run.artifact.basis
    moments = yield from run.resumable.step(
        "moments.safetensors",
        measure_coding_moments(run.fresh().model, run.score_windows(), run.weights, basis),
        lambda path: read_coding_moments(path, basis),
        lambda found, path: save_coding_moments(found, path, basis),
    )
    factors = yield from run.factors(moments.inputs, moments.gradients)
    scores = predicted_scores(factors, run.shapes, pivoted)
    return (yield from build_elastic(run.fresh(), factors, scores, pivoted=pivoted))


def _predicted(run: ComparisonRun, name: str) -> Steps[None]:
    yield from run.measure_both(name, (yield from _two_sided(run, pivoted=False)))


def _factors(run: ComparisonRun, name: str) -> Steps[None]:
    """All entries of the factors, trained on the windows that others train adapters on; nothing is added to a size."""
    elastic = yield from _two_sided(run, pivoted=True)
    budget, windows = run.budget.factors, torch.cat(list(run.calibration.values()))
    read = run.budget.adapters.steps * run.budget.adapters.batch
    settings = replace(budget, batch=min(budget.batch, read), steps=max(1, read // budget.batch))
    checkpoint = run.resumable.path(f"{name}.safetensors")
    elastic.update_factors((yield from train_factors(elastic, windows, settings, checkpoint)).updates)
    yield from run.measure(elastic, name, False)


def _iterated(run: ComparisonRun, name: str) -> Steps[None]:
    """Fisher information measured anew at ever smaller sizes, on as much text as the other score maps."""
    factors = yield from run.factors(run.artifact.basis)
    steps = iterative_scores(run.fresh().model, factors, run.score_windows(), run.budget.adapters.rank)
    yield from _both(run, name, factors, (yield from run.resumable.tensors(name, steps)))


def _pruned(run: ComparisonRun, name: str) -> Steps[None]:
    """A pruning run that starts from the Fisher ranking; its adapters are trained anew, at random sizes."""
    factors = yield from run.factors(run.artifact.basis)
    warm = yield from _densities(run, factors)
    result = yield from run.prune(name, factors, run.budget.small, warm)
    yield from _both(run, name, factors, result.scores)


def _published(run: ComparisonRun, name: str) -> Steps[None]:
    """The pruning run of the paper, on the plain SVD and with its own adapters."""
    factors = yield from factorize(run.weights, plain_basis(run.weights))
    result = yield from run.prune(name, factors, run.budget.published, None)
    yield from _both(run, name, factors, result.scores, result.adapters)


def _both(
    run: ComparisonRun,
    name: str,
    factors: dict[str, Factors],
    scores: Scores,
    adapters: dict[str, AdapterWeights] | None = None,
) -> Steps[None]:
    """Measure a score map without adapters and with them."""
    yield from run.measure_both(name, (yield from build_elastic(run.fresh(), factors, scores)), adapters)


def _simple(score: Callable[[ComparisonRun, dict[str, Factors]], Steps[Scores]]):
    def method(run: ComparisonRun, name: str) -> Steps[None]:
        factors = yield from run.factors(run.artifact.basis)
        scores = yield from run.resumable.tensors(name, score(run, factors))
        yield from _both(run, name, factors, scores)

    return method


def _envelope(run: ComparisonRun, factors: dict[str, Factors]) -> Steps[Scores]:
    gains = yield from _gains(run, factors)
    return {layer: envelope_scores(gain, run.shapes[layer]) for layer, gain in gains.items()}


def _gains(run: ComparisonRun, factors: dict[str, Factors]) -> Steps[Scores]:
    return (yield from run.resumable.tensors("gains", fisher_gains(run.fresh().model, factors, run.score_windows())))


def _densities(run: ComparisonRun, factors: dict[str, Factors]) -> Steps[Scores]:
    gains = yield from _gains(run, factors)
    return {layer: gain / sum(run.shapes[layer]) for layer, gain in gains.items()}


def _asvd(run: ComparisonRun, name: str) -> Steps[None]:
    basis = yield from asvd_basis(run.fresh().model, run.score_windows(), layers=run.weights)
    factors = yield from factorize(run.weights, basis)
    windows = torch.cat([windows[:1] for windows in run.calibration.values()])
    scores = yield from run.resumable.tensors(name, asvd_scores(run.fresh(), factors, windows))
    yield from _both(run, name, factors, scores)


def _dobi(run: ComparisonRun, name: str) -> Steps[None]:
    """One run per size; it has no adapters."""
    factors = yield from run.factors(run.artifact.basis)
    for ratio in run.missing(name):
        steps = dobi_scores(run.fresh(), factors, torch.cat(list(run.calibration.values())), ratio)
        scores = yield from run.resumable.tensors(f"{name}-{ratio}", steps)
        elastic = yield from build_elastic(run.fresh(), factors, scores)
        yield from run.measure(elastic, name, False, (ratio,))


def _aa_svd(run: ComparisonRun, name: str) -> Steps[None]:
    """One run per size, on the windows that others train adapters on; it starts from no factors of ours."""
    factors = yield from run.factors(run.artifact.basis)
    for ratio in run.missing(name):
        elastic = yield from build_elastic(run.fresh(), factors, uniform_scores(factors, run.shapes))
        plan = elastic.planner.at_ratio(ratio)
        yield from aa_svd(elastic, plan, run.training_windows(), run.budget.aa_svd)
        yield from run.measure(elastic, name, False, (ratio,))


def _magnitude(run: ComparisonRun, name: str) -> Steps[None]:
    """Without adapters: nothing is left for them to repair."""
    factors = yield from factorize(run.weights, plain_basis(run.weights))
    elastic = yield from build_elastic(run.fresh(), factors, svd_magnitude_scores(factors))
    yield from run.measure(elastic, name, False)


def _done(scores: Scores) -> Steps[Scores]:
    yield Progress("ranking", 1, 1)
    return scores


METHODS: dict[str, Callable[[ComparisonRun, str], Steps[None]]] = {
    "artifact": _artifact,
    "predicted": _predicted,
    "factors": _factors,
    "fisher-envelope": _simple(_envelope),
    "fisher-iterated": _iterated,
    "acip-small": _pruned,
    "fisher-density": _simple(_densities),
    "svd-llm": _simple(lambda run, factors: _done(uniform_scores(factors, run.shapes))),
    "gradient": _simple(lambda run, factors: gradient_scores(run.fresh().model, factors, run.score_windows())),
    "dobi-svd": _dobi,
    "aa-svd": _aa_svd,
    "acip": _published,
    "asvd": _asvd,
    "svd-magnitude": _magnitude,
}
