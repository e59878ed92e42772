"""The offline run, once per model: second moments, factors, scores, adapters, curves, codes, artifact.

Every stage leaves its result in a work folder named after model and recipe, so a run that is killed at any moment
continues where it was; the artifact appears only when everything is there.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ..artifacts.artifact import Artifact
from ..artifacts.coding import Coding, write_coding
from ..artifacts.completions import FILE as COMPLETIONS
from ..artifacts.completions import Completions, parse_completions, save_completions
from ..artifacts.knowledge import write_knowledge
from ..artifacts.writer import check_owner, check_replaceable, write_artifact
from ..data.corpus import CORPORA, corpus_windows, documents
from ..data.framing import framing
from ..errors import ArtifactError, ModelError
from ..evaluation.curves import Curve
from ..evaluation.methods import artifact_method
from ..model.base_model import BaseModel, fingerprint, load_base
from ..model.context import fitting_window
from ..model.elastic_model import AdapterWeights, ElasticModel, build_elastic
from ..model.factor_cache import cached_factors
from ..model.factorization import Factors, factorize
from ..model.offloading import is_offloaded
from ..model.quantization import FULL, quantize_base
from ..model.second_moments import Basis, plain_basis
from ..model.size_planner import DIRECTIONS
from ..model.target_layers import target_layers
from ..model.trained_factors import FactorUpdate
from ..paths import artifacts_home
from ..progress import Progress, Steps
from ..scoring.acip import acip_scores
from ..scoring.baselines import svd_magnitude_scores, uniform_scores
from ..scoring.fisher import fisher_densities, fisher_scores
from ..scoring.iterative import iterative_scores
from ..scoring.predicted import predicted_scores
from ..storage.atomic import check_writable
from ..storage.locks import only_run
from ..storage.resumable import ResumableRun
from ..training.adapters import AdapterConfig, averaged, train_adapters
from .coding import CodingRun
from .example_completions import complete_examples
from .factor_training import train_within_budget
from .knowledge import KnowledgeRun
from .moments import both_sides, inputs_alone
from .offloaded import check_offloaded
from .recipes import COARSE, PrecomputeConfig
from .resumable_curve import measured_curve, with_fidelity


def precompute(
    source: str | None, recipe: PrecomputeConfig, folder: Path | None = None, overwrite: bool = False
) -> Steps[Path]:
    """Make the artifact of a model; continues an interrupted run of the same model and recipe.

    Args:
        source: as `load_base`.
        folder: where the artifact goes; `<model>` in `paths.artifacts_home` by default, with `-from-nf4` behind it for
            quantized weights.
        overwrite: replace an artifact of other weights, too.

    Returns:
        The artifact's folder.

    Raises:
        ModelError, CorpusError, ArtifactError, PrecisionError, StorageError: one sentence each; finished stages stay.
    """
    if recipe.basis != "two-sided" and (recipe.scorer == "predicted" or recipe.trains_factors):
        raise ArtifactError(
            f"The scorer 'predicted' and trained factors need the basis 'two-sided', not '{recipe.basis}'."
        )
    for corpus in recipe.corpora:  # mistakes that need no model to be seen are said before it is loaded
        for split in ("calibration", "held-out"):
            documents(corpus, split)
    if folder is not None:
        check_replaceable(folder)
        check_writable(folder)
    yield Progress("loading the model", 0, 1)
    base = load_base(source)
    check_offloaded(base, recipe)
    if recipe.quantized != FULL:
        quantize_base(base, recipe.quantized, recipe.include, recipe.exclude)
    name = base.name if recipe.quantized == FULL else f"{base.name}-from-{recipe.quantized}"
    target = folder if folder is not None else artifacts_home() / name
    run = PrecomputeRun(base, recipe)
    check_owner(target, run.owns, overwrite)
    check_writable(target)
    run.resumable.check_writable()
    with only_run(target):
        return (yield from _precompute(run, target))


def _precompute(run: PrecomputeRun, target: Path) -> Steps[Path]:
    base, recipe = run.base, run.recipe
    basis, gradients = yield from run.basis()
    factors = yield from cached_factors(run.weights, run.fingerprint, basis, gradients)
    method, scores, adapters, history = yield from run.scores(factors)
    elastic = yield from build_elastic(base, factors, scores, pivoted=recipe.pivoted)
    updates: dict[str, FactorUpdate] | None = None
    trained_facts: dict[str, Any] = {}  # the settings that a budget came to
    trained_as = asdict(recipe.pruning) if recipe.pruning is not None else {}
    if recipe.adapters is not None:
        smallest = min(recipe.adapters.smallest, *recipe.ratios)
        elastic.planner_for(recipe.adapters.rank).at_ratio(smallest)  # raises before hours of training would
        trained_as = asdict(recipe.adapters)
        adapters, trained = yield from run.adapters(elastic, recipe.adapters)
        history |= trained
    curves: list[Curve] = []
    if adapters is not None or recipe.trains_factors:
        curves += yield from run.curves(elastic, method, COARSE)
    if recipe.trains_factors:
        how = recipe.factors, recipe.blocks, recipe.budget
        updates, found = yield from train_within_budget(elastic, run.calibration(), *how, run.resumable)
        if found is not None:
            trained_facts = {"factors": asdict(found.settings)}
            history |= {"factors.loss": found.losses.mean(1), "factors.ratio": found.ratios.mean(1)}
        elastic.update_factors(updates)
        method += "+factors"
    if adapters is not None:
        elastic.install(adapters)
        method += "+adapters"
    elastic.round_factors()  # what follows is measured of what will run
    curves = (yield from run.curves(elastic, method, recipe.ratios, compare=True)) + curves
    knowledge = KnowledgeRun(elastic, run.resumable.part("knowledge")) if recipe.knowledge else None
    if knowledge is not None:
        yield from knowledge.ask(elastic)
    completions = yield from run.completions(elastic, [DIRECTIONS], run.resumable)
    if recipe.comparisons:
        curves += yield from run.comparisons(basis)
    facts = run.facts(trained_as if adapters is not None else None) | trained_facts
    made = (scores, basis, adapters, history, gradients, updates)
    artifact = Artifact(base.name, base.source, run.fingerprint, facts, tuple(curves), *made)
    coding, of_codes = yield from run.coding(artifact, factors, knowledge)
    completions += of_codes

    def also(place: Path) -> None:
        save_completions(completions, place / COMPLETIONS)
        if coding is not None:
            write_coding(coding, place, basis, gradients)
        if knowledge is not None:
            write_knowledge(knowledge.knowledge(), place)

    if PartialState().is_main_process:
        write_artifact(artifact, target, also)
        run.resumable.remove()
    return target


class PrecomputeRun:
    """The stages of one run and the folder that keeps their results."""

    def __init__(self, base: BaseModel, recipe: PrecomputeConfig):
        self.base, self.recipe, self.offloaded = base, recipe, is_offloaded(base.model)
        self.codes = recipe.codes if recipe.quantized == FULL else None
        targets = target_layers(base.model, recipe.include, recipe.exclude)
        self.weights, self.shapes = targets.weights(), targets.shapes
        self.fingerprint = fingerprint(self.weights)
        files = [c for c in recipe.corpora if c not in CORPORA]  # their text may be edited between two runs
        texts = [documents(c, split) for c in files for split in ("calibration", "held-out")]
        self.framing = framing(base.tokenizer).described(base.tokenizer)
        identity = (recipe.facts(), self.fingerprint, [self.framing, *texts])
        self.resumable = ResumableRun.of("precompute", base.name, *identity)
        self._calibration = [self._windows(corpus, "calibration") for corpus in recipe.corpora]
        self._held_out = {c: self._windows(c, "held-out", recipe.curve_windows) for c in recipe.corpora}

    def owns(self, found: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
        """Whether a fingerprint over the layers of some patterns is that of this run's weights."""
        if found == self.fingerprint:
            return True
        try:
            targets = target_layers(self.base.model, include, exclude)
        except ModelError:  # there are no such layers
            return False
        return found == fingerprint(targets.weights())

    def _windows(self, corpus: str, split: str, count: int | None = None, length: int | None = None) -> torch.Tensor:
        """Windows of one split; all are read at the start, so that too little text is an error before hours of work."""
        length = fitting_window(self.base.model, length or self.recipe.window)
        return corpus_windows(self.base.tokenizer, corpus, split, length, count)

    def calibration(self, per_corpus: int | None = None) -> torch.Tensor:
        """Calibration windows (windows, length), the same number of each corpus, or all there are."""
        return torch.cat([windows[:per_corpus] for windows in self._calibration])

    def basis(self) -> Steps[tuple[Basis, Basis | None]]:
        """Second moments of what layers read and, two-sided, of the loss's gradients by their outputs."""
        recipe, windows = self.recipe, self.calibration(self.recipe.moment_windows)
        if recipe.basis == "svd":
            return plain_basis(self.weights), None
        if recipe.basis != "two-sided":
            return (yield from inputs_alone(self.base.model, self.weights, windows, recipe.basis_rank, self.resumable))
        fewer = self.calibration(-(-recipe.moment_windows // 2))
        return (yield from both_sides(self.base.model, self.weights, windows, fewer, recipe.basis_rank, self.resumable))

    def scores(
        self, factors: Mapping[str, Factors]
    ) -> Steps[tuple[str, dict[str, torch.Tensor], dict[str, AdapterWeights] | None, dict[str, torch.Tensor]]]:
        """The score map's method, the map, and of a pruning run its adapters and history."""
        recipe, pruning, windows = self.recipe, self.recipe.pruning, self.calibration(self.recipe.score_windows)
        method = artifact_method(recipe.facts())
        if pruning is None:
            rank = recipe.adapters.rank if recipe.adapters is not None else 0
            if recipe.scorer == "predicted":
                return method, predicted_scores(factors, self.shapes, recipe.pivoted), None, {}
            if recipe.stages:
                steps = iterative_scores(self.base.model, factors, windows, rank, recipe.stages, self.resumable)
            else:
                steps = self.resumable.tensors("scores", fisher_scores(self.base.model, factors, windows, rank))
            return method, (yield from steps), None, {}
        warm = None
        if pruning.warm_start > 0:
            warm = yield from self.resumable.tensors("warm-start", fisher_densities(self.base.model, factors, windows))
        texts = [self._windows(corpus, "calibration", None, pruning.window) for corpus in self.recipe.corpora]
        checkpoint = self.resumable.path("pruning.safetensors")
        result = yield from acip_scores(self.base, factors, torch.cat(texts), pruning, warm, checkpoint)
        history = {f"acip.{name}": values for name, values in result.history.items()}
        return method, result.scores, result.adapters, history

    def adapters(
        self, elastic: ElasticModel, settings: AdapterConfig
    ) -> Steps[tuple[dict[str, AdapterWeights], dict[str, torch.Tensor]]]:
        """Adapters and history of their training and, where the recipe asks for it, of their refining."""
        text = self.calibration()
        trained = yield from train_adapters(elastic, text, settings, self.resumable.path("adapters.safetensors"))
        history = {"loss": trained.losses, "ratio": trained.ratios}
        if self.recipe.refining is not None:
            further = replace(self.recipe.refining, rank=settings.rank, alpha=settings.alpha)
            checkpoint = self.resumable.path("refining.safetensors")
            refined = yield from train_adapters(elastic, text, further, checkpoint, trained.weights)
            history |= {"refining.loss": refined.losses, "refining.ratio": refined.ratios}
            return averaged(trained.weights, refined.weights, self.recipe.refined_share), history
        return trained.weights, history

    def curves(
        self, elastic: ElasticModel, method: str, ratios: tuple[float, ...], compare: bool = False
    ) -> Steps[list[Curve]]:
        """One curve per corpus on held-out text, compared with the full model, too, where that is asked for."""
        curves = []
        for corpus, windows in self._held_out.items():
            label = (method, corpus, "held-out")
            curve = yield from measured_curve(elastic, windows, ratios, label, self.resumable)
            curves.append((yield from with_fidelity(elastic, windows, curve, self.resumable)) if compare else curve)
        return curves

    def comparisons(self, basis: Basis) -> Steps[list[Curve]]:
        """The lines of uniform-rank whitened truncation and of plain singular values."""
        factors = yield from factorize(self.weights, basis)
        elastic = yield from build_elastic(self.base, factors, uniform_scores(factors, self.shapes))
        curves = yield from self.curves(elastic, "svd-llm", COARSE)
        plain = yield from factorize(self.weights, plain_basis(self.weights))
        elastic = yield from build_elastic(self.base, plain, svd_magnitude_scores(plain))
        return curves + (yield from self.curves(elastic, "svd-magnitude", COARSE))

    def completions(self, elastic: ElasticModel, modes: Sequence[str], run: ResumableRun) -> Steps[list[Completions]]:
        """Texts of the example prompts in some modes, kept in a run that depends on all that decides them."""
        texts = complete_examples(elastic, self.recipe.examples, modes)
        return (yield from run.step(COMPLETIONS, texts, parse_completions, save_completions))

    def coding(
        self, artifact: Artifact, factors: Mapping[str, Factors], knowledge: KnowledgeRun | None
    ) -> Steps[tuple[Coding | None, list[Completions]]]:
        """Sizes in bytes and texts there, where the recipe asks for them; last: codes change the model's classes."""
        if self.codes is None:
            return None, []
        elastic = yield from build_elastic(self.base, factors, artifact.scores, pivoted=artifact.pivoted)
        resumable = self.resumable.part("coding", asdict(self.codes))
        run = CodingRun(elastic, artifact, self.codes, resumable)
        coding = yield from run.coding()
        if knowledge is not None:
            yield from knowledge.ask(elastic, asdict(self.codes))
        modes = [mode for mode in elastic.planners if mode != DIRECTIONS]
        return coding, (yield from self.completions(elastic, modes, run.resumable))

    def facts(self, adapters: dict[str, Any] | None) -> dict[str, Any]:
        """What the artifact says of how it was made."""
        facts = self.recipe.facts() | {"adapters": adapters, "framing": self.framing}
        if self.recipe.adapters is None:
            facts["refining"] = None
        facts["window"] = fitting_window(self.base.model, self.recipe.window)
        versions = {name: version(name) for name in ("torch", "transformers")}
        return facts | versions | {"machine": platform.machine()}
