"""The offline run, once per model: second moments, factors, scores, adapters, curves, artifact.

Every stage leaves its result in a work folder named after model and recipe, so a run that is killed at any moment
continues where it was; the artifact appears only when everything is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import PartialState
from filelock import FileLock, Timeout

from ..artifacts.artifact import Artifact
from ..artifacts.completions import EXAMPLES, parse_completions, write_completions
from ..artifacts.completions import FILE as COMPLETIONS
from ..artifacts.writer import check_owner, check_replaceable, write_artifact
from ..data.corpus import CORPORA, corpus_windows, documents
from ..data.framing import framing
from ..errors import ModelError, StorageError
from ..evaluation.curves import Curve, CurvePoint, measure_curve
from ..evaluation.methods import artifact_method
from ..evaluation.perplexity import WINDOW
from ..model.base_model import BaseModel, fingerprint, load_base
from ..model.context import fitting_window
from ..model.elastic_model import AdapterWeights, ElasticModel, build_elastic
from ..model.factorization import Factors, cached_factors, factorize
from ..model.quantization import FULL, quantize_base
from ..model.second_moments import DEFAULT_RANK, Basis, measure_basis, plain_basis, read_basis, save_basis
from ..model.target_layers import target_layers
from ..paths import artifacts_home, cache_dir
from ..progress import Progress, Steps
from ..scoring.acip import acip_scores
from ..scoring.baselines import svd_magnitude_scores, uniform_scores
from ..scoring.fisher import fisher_densities, fisher_scores
from ..scoring.iterative import STAGES, iterative_scores
from ..scoring.pruning_config import PAPER, SMALL, PruningConfig
from ..storage.atomic import atomic_path, check_writable, read_kept
from ..storage.verified import listed, read_json, read_tensors, save_tensors, write_json
from ..training.adapters import AdapterConfig, averaged, train_adapters
from .example_completions import complete_examples

FINE = tuple(round(1 - 0.05 * i, 2) for i in range(15))  # 100, 95 … 30 %
COARSE = FINE[::2]  # 100, 90 … 30 %: comparison lines
# On the full model's predictions alone, which takes back much of what the first training learned of the kind of text.
REFINING = AdapterConfig(steps=200, batch=4, largest=0.98, distillation=1.0, seed=1)


@dataclass(frozen=True)
class PrecomputeConfig:
    """Everything that fixes an artifact besides the model.

    Attributes:
        corpora: names or files, as `corpus.documents`.
        include, exclude: patterns that narrow the layers that are compressed, as `targets.target_layers`.
        window: tokens per window, everywhere.
        moment_windows, score_windows: calibration windows per corpus.
        stages: size ratios at which the Fisher information is measured anew; without any, the full model's counts.
        basis: `activation` or `svd` (plain, as in the paper).
        basis_rank: columns kept of each correlation.
        pruning: rank the directions by a pruning run (Step 2 of ACIP); None for Fisher information.
        adapters: how adapters are trained; None keeps those of the pruning run, if there is one.
        refining: how they are trained further afterwards, at the same rank; None leaves them as they are.
        refined_share: weight of the refined adapters in the mean with those before, in (0, 1].
        curve_windows: held-out windows per corpus and size.
        ratios: sizes of the curve.
        comparisons: whether to measure the comparison lines too.
        examples: prompts that are completed at every size.
        quantized: precision of the weights that everything is made from, for use with the full ones (section 3.4).
    """

    corpora: tuple[str, ...] = ("c4", "wikipedia")
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    window: int = WINDOW
    moment_windows: int = 64
    score_windows: int = 64
    stages: tuple[float, ...] = ()
    basis: str = "activation"
    basis_rank: int = DEFAULT_RANK
    pruning: PruningConfig | None = None
    adapters: AdapterConfig | None = field(default_factory=AdapterConfig)
    refining: AdapterConfig | None = REFINING
    refined_share: float = 0.6
    curve_windows: int = 16
    ratios: tuple[float, ...] = FINE
    comparisons: bool = True
    examples: tuple[str, ...] = EXAMPLES
    quantized: str = FULL


PAPER_RECIPE = PrecomputeConfig(pruning=PAPER, adapters=None, refining=None)
SMALL_RECIPE = PrecomputeConfig(pruning=SMALL)
ITERATED_RECIPE = PrecomputeConfig(score_windows=128, stages=STAGES)
QUICK = replace(
    ITERATED_RECIPE,
    moment_windows=12,
    score_windows=32,
    adapters=None,
    refining=None,
    curve_windows=6,
    ratios=COARSE,
    comparisons=False,
)


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
    for corpus in recipe.corpora:  # mistakes that need no model to be seen are said before it is loaded
        for split in ("calibration", "held-out"):
            documents(corpus, split)
    if folder is not None:
        check_replaceable(folder)
        check_writable(folder)
    yield Progress("loading the model", 0, 1)
    base = load_base(source)
    if recipe.quantized != FULL:
        quantize_base(base, recipe.quantized, recipe.include, recipe.exclude)
    name = base.name if recipe.quantized == FULL else f"{base.name}-from-{recipe.quantized}"
    target = folder if folder is not None else artifacts_home() / name
    run = PrecomputeRun(base, recipe)
    check_owner(target, run.owns, overwrite)
    for place in (target, run.work):
        check_writable(place)
    with only_run(target):
        return (yield from _precompute(run, target))


def _precompute(run: PrecomputeRun, target: Path) -> Steps[Path]:
    base, recipe = run.base, run.recipe
    basis = yield from run.basis()
    factors = yield from cached_factors(run.weights, run.fingerprint, basis)
    method, scores, adapters, history = yield from run.scores(factors)
    elastic = yield from build_elastic(base, factors, scores)
    trained_as = asdict(recipe.pruning) if recipe.pruning is not None else {}
    if recipe.adapters is not None:
        smallest = min(recipe.adapters.smallest, *recipe.ratios)
        elastic.planner_for(recipe.adapters.rank).at_ratio(smallest)  # raises before hours of training would
        trained_as = asdict(recipe.adapters)
        adapters, trained = yield from run.adapters(elastic, recipe.adapters)
        history |= trained
    curves: list[Curve] = []
    if adapters is not None:
        curves += yield from run.curves(elastic, method, COARSE)
        elastic.install(adapters)
        method += "+adapters"
    curves = (yield from run.curves(elastic, method, recipe.ratios)) + curves
    completions = read_kept(run.work / COMPLETIONS, parse_completions)
    if completions is None:
        completions = yield from complete_examples(elastic, recipe.examples)
        write_completions(completions, run.work)
    if recipe.comparisons:
        curves += yield from run.comparisons(factors)
    facts = asdict(recipe) | {"adapters": trained_as if adapters is not None else None, "framing": run.framing}
    facts["window"] = fitting_window(base.model, recipe.window)
    facts |= _versions()
    if recipe.adapters is None:
        facts["refining"] = None
    artifact = Artifact(base.name, base.source, run.fingerprint, facts, tuple(curves), scores, basis, adapters, history)
    if PartialState().is_main_process:
        write_artifact(artifact, target, lambda place: write_completions(completions, place))
        shutil.rmtree(run.work, ignore_errors=True)
    return target


@contextmanager
def only_run(target: Path) -> Iterator[None]:
    """Keep a second run from writing the same artifact; processes of one `accelerate launch` are one run."""
    path = cache_dir() / "locks" / f"{hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]}.lock"
    if not PartialState().is_main_process:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise StorageError(f"Another run is writing {target}; wait for it, stop it, or name another folder.") from None
    except OSError as error:
        raise StorageError(f"Cannot write {path} ({error}); free space or set ACIP_CACHE to another folder.") from error


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers")} | {"machine": platform.machine()}


class PrecomputeRun:
    """The stages of one run and the folder that keeps their results."""

    def __init__(self, base: BaseModel, recipe: PrecomputeConfig):
        self.base, self.recipe = base, recipe
        targets = target_layers(base.model, recipe.include, recipe.exclude)
        self.weights = {name: layer.weight.detach() for name, layer in targets.items()}
        self.fingerprint = fingerprint(self.weights)
        files = [c for c in recipe.corpora if c not in CORPORA]  # their text may be edited between two runs
        own = [documents(c, split) for c in files for split in ("calibration", "held-out")]
        self.framing = framing(base.tokenizer).described(base.tokenizer)
        identity = json.dumps(asdict(recipe)) + self.fingerprint + json.dumps([self.framing, *own])
        self.work = cache_dir() / "precompute" / f"{base.name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
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
        return found == fingerprint({name: layer.weight for name, layer in targets.items()})

    def _windows(self, corpus: str, split: str, count: int | None = None, length: int | None = None) -> torch.Tensor:
        """All text is read at the start, so that an hour of work does not end in an error about too little of it."""
        length = fitting_window(self.base.model, length or self.recipe.window)
        return corpus_windows(self.base.tokenizer, corpus, split, length, count)

    def calibration(self, per_corpus: int | None = None) -> torch.Tensor:
        """Calibration windows (windows, length), the same number of each corpus, or all there are."""
        return torch.cat([windows[:per_corpus] for windows in self._calibration])

    def basis(self) -> Steps[Basis]:
        if self.recipe.basis == "svd":
            return plain_basis(self.weights)
        path = self.work / "basis.safetensors"
        if (kept := read_kept(path, read_basis)) is not None:
            return kept
        windows = self.calibration(self.recipe.moment_windows)
        basis = yield from measure_basis(self.base.model, windows, self.recipe.basis_rank, self.weights)
        with atomic_path(path) as temporary:
            save_basis(basis, temporary)
        return basis

    def scores(
        self, factors: dict[str, Factors]
    ) -> Steps[tuple[str, dict[str, torch.Tensor], dict[str, AdapterWeights] | None, dict[str, torch.Tensor]]]:
        """The score map's name, the map, adapters trained on the way, history of the way."""
        recipe, pruning, windows = self.recipe, self.recipe.pruning, self.calibration(self.recipe.score_windows)
        method = artifact_method(asdict(recipe))
        if pruning is None:
            rank = recipe.adapters.rank if recipe.adapters is not None else 0
            if recipe.stages:
                kept = self.work / "stages.safetensors"
                steps = iterative_scores(self.base.model, factors, windows, rank, recipe.stages, kept)
            else:
                steps = self._kept_scores("scores", fisher_scores(self.base.model, factors, windows, rank))
            return method, (yield from steps), None, {}
        warm = None
        if pruning.warm_start > 0:
            warm = yield from self._kept_scores("warm-start", fisher_densities(self.base.model, factors, windows))
        texts = [self._windows(corpus, "calibration", None, pruning.window) for corpus in self.recipe.corpora]
        checkpoint = self.work / "pruning.safetensors"
        result = yield from acip_scores(self.base, factors, torch.cat(texts), pruning, warm, checkpoint)
        history = {f"acip.{name}": values for name, values in result.history.items()}
        return method, result.scores, result.adapters, history

    def adapters(
        self, elastic: ElasticModel, settings: AdapterConfig
    ) -> Steps[tuple[dict[str, AdapterWeights], dict[str, torch.Tensor]]]:
        """Adapters and history of their training and, where the recipe asks for it, of their refining."""
        text = self.calibration()
        trained = yield from train_adapters(elastic, text, settings, self.work / "adapters.safetensors")
        history = {"loss": trained.losses, "ratio": trained.ratios}
        if self.recipe.refining is not None:
            further = replace(self.recipe.refining, rank=settings.rank, alpha=settings.alpha)
            checkpoint = self.work / "refining.safetensors"
            refined = yield from train_adapters(elastic, text, further, checkpoint, trained.weights)
            history |= {"refining.loss": refined.losses, "refining.ratio": refined.ratios}
            return averaged(trained.weights, refined.weights, self.recipe.refined_share), history
        return trained.weights, history

    def _kept_scores(self, name: str, steps: Steps[dict[str, torch.Tensor]]) -> Steps[dict[str, torch.Tensor]]:
        path = self.work / f"{name}.safetensors"
        if (kept := read_kept(path, lambda kept: read_tensors(kept)[0])) is not None:
            return kept
        scores = yield from steps
        with atomic_path(path) as temporary:
            save_tensors(scores, temporary)
        return scores

    def curves(self, elastic: ElasticModel, method: str, ratios: tuple[float, ...]) -> Steps[list[Curve]]:
        """One curve per corpus on held-out text; points are kept as soon as they are measured."""
        curves = []
        for corpus, windows in self._held_out.items():
            curves.append((yield from kept_curve(elastic, windows, ratios, (method, corpus, "held-out"), self.work)))
        return curves

    def comparisons(self, factors: dict[str, Factors]) -> Steps[list[Curve]]:
        """The lines of uniform-rank whitened truncation and of plain singular values."""
        shapes = {name: (w.shape[0], w.shape[1]) for name, w in self.weights.items()}
        elastic = yield from build_elastic(self.base, factors, uniform_scores(factors, shapes))
        curves = yield from self.curves(elastic, "svd-llm", COARSE)
        plain = yield from factorize(self.weights, plain_basis(self.weights))
        elastic = yield from build_elastic(self.base, plain, svd_magnitude_scores(plain))
        return curves + (yield from self.curves(elastic, "svd-magnitude", COARSE))


def kept_curve(
    elastic: ElasticModel, windows: torch.Tensor, ratios: Sequence[float], label: tuple[str, str, str], work: Path
) -> Steps[Curve]:
    """`measure_curve` with a file in `work` that keeps every point as soon as it is measured."""
    method, corpus, _ = label
    path = work / f"curve-{method}-{hashlib.sha256(corpus.encode()).hexdigest()[:8]}.json"
    known = read_kept(path, _read_points) or {}
    return (yield from _keeping(measure_curve(elastic, windows, ratios, label, known), path, known))


def _keeping(steps: Steps[Curve], path: Path, known: dict[float, CurvePoint]) -> Steps[Curve]:
    """Run a curve's steps, writing its points whenever there is a new one."""
    written = len(known)
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            _write_points(path, known)
            return stop.value
        if len(known) > written:
            written = len(known)
            _write_points(path, known)
        yield step


def _read_points(path: Path) -> dict[float, CurvePoint]:
    return {ratio: CurvePoint(*values) for ratio, values in listed(read_json(path), "points")}


def _write_points(path: Path, known: dict[float, CurvePoint]) -> None:
    with atomic_path(path) as temporary:
        finite = {ratio: asdict(point) for ratio, point in known.items() if math.isfinite(point.perplexity)}
        points = [[ratio, list(values.values())] for ratio, values in finite.items()]
        write_json(temporary, {"points": points}, indent=None)
