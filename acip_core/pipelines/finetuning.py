"""Continue an artifact's adapters at one size on a given text (section 3.3 of the paper).

The scores stay, so the result is an artifact like any other: best at the size it was tuned for, measured at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..artifacts.artifact import Artifact
from ..artifacts.knowledge import made_from
from ..artifacts.loading import open_model
from ..artifacts.writer import check_owner, check_replaceable, write_artifact
from ..data.corpus import corpus_windows, documents
from ..errors import SizeError
from ..evaluation.curves import Curve, primary_curves
from ..evaluation.perplexity import WINDOW
from ..model.context import fitting_window
from ..model.elastic_model import AdapterWeights, ElasticModel
from ..model.quantization import PRECISIONS, at_precision
from ..model.size_planner import DENSE, DIRECTIONS
from ..paths import artifacts_home
from ..progress import Steps
from ..storage.atomic import check_writable
from ..storage.locks import only_run
from ..storage.resumable import ResumableRun
from ..training.adapters import AdapterConfig, TrainedAdapters, train_adapters
from .recipes import COARSE
from .resumable_curve import measured_curve


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that fixes a fine-tuned artifact besides the one it starts from.

    Attributes:
        ratio: size ratio, adapters counted.
        data: names or files of text, as `corpus.documents`; the corpora of the artifact when empty.
        steps: optimization steps.
        batch: windows per step.
        learning_rate: peak of a one-cycle cosine schedule.
        distillation: weight of the KL divergence from the full model; the text's likelihood has the rest.
        window: tokens per window.
        curve_windows: held-out windows per corpus and size.
        rank: of the adapters where the artifact has none.
        seed: fixes every random draw.
    """

    ratio: float
    data: tuple[str, ...] = ()
    steps: int = 300
    batch: int = 4
    learning_rate: float = 2e-3
    distillation: float = 0.5
    window: int = WINDOW
    curve_windows: int = 16
    rank: int = 16
    seed: int = 0


def finetune(
    source: str | None,
    tuning: FinetuneConfig,
    artifact: str | Path | None = None,
    folder: Path | None = None,
    overwrite: bool = False,
) -> Steps[tuple[Path, list[Curve], list[Curve]]]:
    """Train at one size and write a new artifact; continues an interrupted run of the same settings.

    Adapters are made where the artifact has none. Its curves stay in the new one as lines to compare with.

    Args:
        source: as `load_base`.
        artifact: folder to start from, or its name on the Hub; that of the model's name by default.
        folder: of the new artifact; `<model>-at-50` in `paths.artifacts_home` for 50 % by default.
        overwrite: replace an artifact of other weights, too.

    Returns:
        The new artifact's folder, and its method's curves before and after, on held-out text of the data and of the
        corpora the artifact was made from.

    Raises:
        ModelError, CorpusError, ArtifactError, SizeError, StorageError: one sentence each.
    """
    for corpus in tuning.data:
        documents(corpus, "calibration")
    if folder is not None:
        check_replaceable(folder)
        check_writable(folder)
    loaded = yield from open_model(source, artifact, install=False, whole_for="adapters")
    elastic, old = loaded.elastic, loaded.artifact
    if old.updates is not None:  # adapters are trained anew, factors stay
        elastic.update_factors(old.updates)
    target = folder if folder is not None else artifacts_home() / f"{elastic.base.name}-at-{tuning.ratio * 100:g}"
    check_owner(target, lambda found, *_: found in (old.fingerprint, loaded.fingerprint), overwrite)
    check_writable(target)
    corpora = tuple(dict.fromkeys([*tuning.data, *old.recipe.get("corpora", ("c4", "wikipedia"))]))
    training_text = torch.cat([_windows(elastic, c, "calibration", tuning.window) for c in tuning.data or corpora])
    held_out = {c: _windows(elastic, c, "held-out", tuning.window, tuning.curve_windows) for c in corpora}
    settings = _settings(old.adapters, tuning)
    planner = elastic.planner_for(settings.rank)
    plan = planner.at_ratio(tuning.ratio)  # raises before the training would
    possible = planner.smallest / planner.base_target_parameters
    ratios = tuple(ratio for ratio in {*COARSE, tuning.ratio} if ratio >= possible)
    if all(rank == DENSE for rank in plan.ranks):
        raise SizeError(f"At {tuning.ratio:.1%} no layer is cut, so there is nothing to repair; name a smaller size.")
    texts = training_text, *held_out.values()  # a file may be edited between two runs
    identity = (asdict(tuning), str(target.resolve()), old.fingerprint, made_from(loaded.folder, DIRECTIONS))
    run = ResumableRun.of("finetune", elastic.base.name, *identity, *texts)
    with only_run(target):
        checkpoint = run.path("adapters.safetensors")
        trained = yield from train_adapters(elastic, training_text, settings, checkpoint, old.adapters)
        before, after = yield from _measure(elastic, old, trained, held_out, ratios, tuning, run)
        write_artifact(_tuned(old, trained, settings, tuning, before, after), target)
        run.remove()
    return target, before, after


def _measure(
    elastic: ElasticModel,
    old: Artifact,
    trained: TrainedAdapters,
    held_out: Mapping[str, torch.Tensor],
    ratios: tuple[float, ...],
    tuning: FinetuneConfig,
    run: ResumableRun,
) -> Steps[tuple[list[Curve], list[Curve]]]:
    """Curves before and after, one per corpus; before, what the artifact lacks is measured at the tuned size alone."""
    method, before = _method(old), primary_curves(old.curves)
    if old.adapters is not None:
        elastic.install(old.adapters)
    for corpus in [c for c in held_out if c not in {curve.corpus for curve in before}]:
        label = (method, corpus, "held-out")
        before.append((yield from measured_curve(elastic, held_out[corpus], (tuning.ratio,), label, run)))
    elastic.install(trained.weights)
    after = []
    for corpus, windows in held_out.items():
        label = (f"{method}, tuned at {tuning.ratio:.0%}", corpus, "held-out")
        after.append((yield from measured_curve(elastic, windows, ratios, label, run)))
    return before, after


def _tuned(
    old: Artifact,
    trained: TrainedAdapters,
    settings: AdapterConfig,
    tuning: FinetuneConfig,
    before: list[Curve],
    after: list[Curve],
) -> Artifact:
    method = _method(old)
    gone = {method, *(at_precision(method, name) for name in PRECISIONS)}  # of the former adapters
    return replace(
        old,
        curves=(*after, *before, *(curve for curve in old.curves if curve.method not in gone)),
        adapters=trained.weights,
        recipe=old.recipe | {"adapters": asdict(settings), "finetuned": asdict(tuning)},
        history=old.history | {"finetune.loss": trained.losses},
    )


def _method(artifact: Artifact) -> str:
    return artifact.curves[0].method if artifact.curves else "cut"


def _windows(elastic: ElasticModel, corpus: str, split: str, length: int, count: int | None = None) -> torch.Tensor:
    return corpus_windows(elastic.tokenizer, corpus, split, fitting_window(elastic.model, length), count)


def _settings(adapters: Mapping[str, AdapterWeights] | None, tuning: FinetuneConfig) -> AdapterConfig:
    rank = tuning.rank if adapters is None else next(iter(adapters.values())).a.shape[0]
    return AdapterConfig(
        rank=rank, alpha=2 * rank, steps=tuning.steps, batch=tuning.batch, learning_rate=tuning.learning_rate,
        smallest=tuning.ratio, largest=tuning.ratio, distillation=tuning.distillation, seed=tuning.seed,
    )  # fmt: skip
