"""The offline run from its two ends: a model folder and a text file in, an artifact out, killed or not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.artifacts.completions import read_completions
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.data.corpus import documents, token_windows
from acip_core.errors import ArtifactError, CorpusError, ModelError, SizeError
from acip_core.evaluation.perplexity import measure_perplexity
from acip_core.model.base_model import load_base
from acip_core.model.factorization import factorize
from acip_core.model.size_planner import DIRECTIONS
from acip_core.model.target_layers import target_layers
from acip_core.pipelines.precompute import PrecomputeConfig, precompute
from acip_core.progress import Progress, finish
from acip_core.scoring.fisher import fisher_scores
from acip_core.scoring.iterative import iterative_scores
from acip_core.scoring.pruning_config import PruningConfig
from acip_core.training.adapters import AdapterConfig
from acip_core.training.blocks import BlockConfig
from acip_core.training.factors import FactorConfig
from tests.support.artifacts import same
from tests.support.tiny import save, tiny_base

PRUNING = PruningConfig(
    mask_learning_rate=6e-3, penalty=1e-2, penalty_growth=1.1, post_steps=3, batch=2, micro_batch=2, window=24, rank=2,
    alpha=4, max_steps=200, stop_ratio=0.6,
)  # fmt: skip


@pytest.mark.parametrize("basis", ["activation", "svd"])
@pytest.mark.parametrize("own_adapters", [True, False])
def test_a_pruning_run_makes_an_artifact(
    model: str, recipe: PrecomputeConfig, tmp_path: Path, basis: str, own_adapters: bool
):
    adapters = None if own_adapters else recipe.adapters
    pruned = replace(
        recipe, pruning=replace(PRUNING, warm_start=0.5), adapters=adapters, basis=basis, comparisons=False
    )

    def kill(step: Progress) -> None:
        if step.stage == "pruning" and step.done > 20:
            raise KeyboardInterrupt

    for out in ("whole", "killed"):
        if out == "killed":
            with pytest.raises(KeyboardInterrupt):
                finish(precompute(model, pruned, tmp_path / out), kill)
        finish(precompute(model, pruned, tmp_path / out))
    whole, killed = (read_artifact(tmp_path / out) for out in ("whole", "killed"))
    assert same(whole, killed)
    assert [curve.method for curve in whole.curves] == ["acip-small+adapters", "acip-small"]
    assert set(whole.history) >= {f"acip.{name}" for name in ("size", "loss", "lambda", "trajectories", "sample")}
    assert ("loss" in whole.history) == (not own_adapters)
    loaded = finish(open_model(model, tmp_path / "whole"))
    plan = loaded.elastic.set_size(0.6)
    windows = token_windows(loaded.elastic.tokenizer, documents(recipe.corpora[0], "held-out"), 32, 3)
    *_, measured = measure_perplexity(loaded.elastic.model, windows)
    point = whole.curves[0].points[1]
    assert (plan.ratio, measured.value) == (point.ratio, pytest.approx(point.perplexity, rel=1e-3))


@pytest.fixture
def trained_recipe(recipe: PrecomputeConfig) -> PrecomputeConfig:
    """A two-sided basis with factors trained block by block, then end to end."""
    factors = FactorConfig(steps=6, batch=2, learning_rate=1e-2, sampled=5)
    blocks = BlockConfig(steps=3, batch=2, windows=4, learning_rate=1e-2)
    trained = replace(recipe, factors=factors, blocks=blocks, adapters=None, refining=None)
    return replace(trained, basis="two-sided", scorer="predicted", comparisons=False)


def test_trained_factors_are_in_the_artifact_and_in_every_cut(
    model: str, trained_recipe: PrecomputeConfig, tmp_path: Path
):
    for stage in ("gradient moments", "training blocks", "training factors", "scaling the factors"):

        def kill(step: Progress, stage: str = stage) -> None:
            if (step.stage, step.done) == (stage, 2):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            finish(precompute(model, trained_recipe, tmp_path / "killed"), kill)
    finish(precompute(model, trained_recipe, tmp_path / "killed"))
    finish(precompute(model, trained_recipe, tmp_path / "whole"))
    whole, killed = (read_artifact(tmp_path / out) for out in ("whole", "killed"))
    assert whole.updates is not None and killed.updates is not None and whole.gradients is not None
    for name, update in whole.updates.items():
        assert torch.equal(update.down.matrix(), killed.updates[name].down.matrix())
    assert whole.curves == killed.curves
    assert [curve.method for curve in whole.curves] == ["predicted+factors", "predicted"]
    assert whole.history["factors.loss"].shape == (6,) and whole.adapters is None
    loaded = finish(open_model(model, tmp_path / "whole"))
    plan = loaded.elastic.set_size(0.6)
    windows = token_windows(loaded.elastic.tokenizer, documents(trained_recipe.corpora[0], "held-out"), 32, 3)
    *_, measured = measure_perplexity(loaded.elastic.model, windows)
    point = whole.curves[0].points[1]
    assert (plan.ratio, measured.value) == (point.ratio, pytest.approx(point.perplexity, rel=1e-3))
    bare = finish(open_model(model, tmp_path / "whole", install=False)).elastic
    bare.set_size(0.6)
    *_, measured = measure_perplexity(bare.model, windows)
    untrained = next(p for p in whole.curves[1].points if p.ratio == plan.ratio)
    assert measured.value == pytest.approx(untrained.perplexity, rel=1e-3) != point.perplexity


def test_blocks_alone_are_in_the_artifact(model: str, trained_recipe: PrecomputeConfig, tmp_path: Path):
    stages: set[str] = set()
    recipe = replace(trained_recipe, factors=None)
    finish(precompute(model, recipe, tmp_path / "out"), lambda step: stages.add(step.stage))
    assert "training blocks" in stages and not stages & {"training factors", "sampling text"}
    artifact = read_artifact(tmp_path / "out")
    assert artifact.updates is not None and not artifact.history
    assert [curve.method for curve in artifact.curves] == ["predicted+factors", "predicted"]
    after, before = (next(p.perplexity for p in c.points if p.ratio < 0.7) for c in artifact.curves)
    assert after != before
    assert finish(open_model(model, tmp_path / "out")).elastic.set_size(0.6).ratio >= 0.6


@pytest.mark.parametrize("change", [{"basis": "svd"}, {"basis": "activation", "scorer": "fisher"}])
def test_factors_for_another_basis_are_refused_before_the_work(
    model: str, trained_recipe: PrecomputeConfig, tmp_path: Path, change: dict[str, str]
):
    with pytest.raises(ArtifactError, match="need the basis 'two-sided', not"):
        next(precompute(model, replace(trained_recipe, **change), tmp_path / "out"))


def test_a_budget_sets_the_steps(model: str, trained_recipe: PrecomputeConfig, tmp_path: Path):
    seen: list[Progress] = []
    assert trained_recipe.factors is not None
    factors = replace(trained_recipe.factors, steps=1_000_000)
    recipe = replace(trained_recipe, factors=factors, budget=2 / 3600, blocks=None)
    finish(precompute(model, recipe, tmp_path / "out"), seen.append)
    assert "timing the training" in {step.stage for step in seen}
    steps = {step.total for step in seen if step.stage == "training factors"} - {1}
    assert len(steps) == 1 and max(steps) < 1_000_000
    artifact = read_artifact(tmp_path / "out")
    assert len(artifact.history["factors.loss"]) == artifact.recipe["factors"]["steps"] == steps.pop()


def test_whole_run(model: str, recipe: PrecomputeConfig, text: str, tmp_path: Path, cache: Path) -> None:
    stages: list[Progress] = []
    folder = finish(
        precompute(model, replace(recipe, examples=("one",), knowledge=True), tmp_path / "out"), stages.append
    )
    artifact = read_artifact(folder)
    assert [(c.prompt, c.mode) for c in read_completions(folder)] == [("one", DIRECTIONS)]
    methods = [curve.method for curve in artifact.curves]
    assert methods == ["fisher-envelope+adapters", "fisher-envelope", "svd-llm", "svd-magnitude"]
    assert all(1 <= step.done <= step.total or step.done == 0 for step in stages)
    assert {"scoring", "training adapters", "refining adapters"} <= {step.stage for step in stages}
    assert [len(artifact.history[name]) for name in ("loss", "refining.loss", "refining.ratio")] == [6, 2, 2]

    base = tiny_base()
    windows = token_windows(base.tokenizer, documents(text, "held-out"), 32, 3)
    with torch.no_grad():
        losses = [base.model(w[None], labels=w[None]).loss.item() for w in windows]
    expected = math.exp(sum(losses) / len(losses))
    for curve in artifact.curves:
        assert curve.tokens == 3 * 31
        assert curve.points[0].ratio == 1.0
        assert curve.points[0].perplexity == curve.base_perplexity == pytest.approx(expected, rel=1e-5)

    loaded = finish(open_model(model, folder))
    assert loaded.note == "" and not list((cache / "precompute").iterdir())
    plan = loaded.elastic.set_size(0.6)
    *_, measured = measure_perplexity(loaded.elastic.model, windows)
    tuned, cut = artifact.curves[0].points[1], artifact.curves[1].points[-4]
    assert (tuned.ratio, tuned.parameters, tuned.bytes) == (plan.ratio, plan.parameters, plan.bytes)
    assert tuned.perplexity == pytest.approx(measured.value, rel=1e-3)  # adapters are stored in bfloat16
    assert round(cut.ratio, 1) == 0.6 and cut.perplexity != pytest.approx(measured.value, rel=1e-3)


def test_refined_adapters_are_averaged_with_those_before(model: str, recipe: PrecomputeConfig, tmp_path: Path) -> None:
    made = {}
    for name, change in {"before": {"refining": None}, "after": {"refined_share": 1.0}, "kept": {}}.items():
        run = replace(recipe, comparisons=False, **change)  # type: ignore[arg-type]
        made[name] = read_artifact(finish(precompute(model, run, tmp_path / name))).adapters
    before, after, kept = made.values()
    assert before is not None and after is not None and kept is not None
    assert any(not torch.equal(before[name].b, after[name].b) for name in kept)
    for name in kept:
        for part in ("a", "b"):
            first, last, mean = (getattr(adapters[name], part) for adapters in (before, after, kept))
            torch.testing.assert_close(mean, 0.4 * first + 0.6 * last, rtol=0.02, atol=1e-3)  # stored in bfloat16


@pytest.mark.parametrize("stages", [(), (0.8, 0.6)])
def test_the_full_model_is_scored_or_every_stage(
    model: str, recipe: PrecomputeConfig, text: str, tmp_path: Path, stages: tuple[float, ...]
) -> None:
    seen: list[Progress] = []
    recipe = replace(recipe, adapters=None, comparisons=False, stages=stages, score_windows=6)
    artifact = read_artifact(finish(precompute(model, recipe, tmp_path / "out"), seen.append))
    sizes = {step.note.partition(",")[0] for step in seen if step.stage == "scoring" and step.note.startswith("at ")}
    assert sizes == ({"at 100%", "at 80%", "at 60%"} if stages else set())
    base = load_base(model)
    weights = {name: layer.weight.detach() for name, layer in target_layers(base.model).items()}
    factors = finish(factorize(weights, artifact.basis))
    windows = token_windows(base.tokenizer, documents(text, "calibration"), 32, 6)
    again = iterative_scores(base.model, factors, windows, 0, stages)
    expected = finish(again if stages else fisher_scores(base.model, factors, windows))
    for name, scores in artifact.scores.items():
        assert torch.equal(scores.argsort(stable=True), expected[name].argsort(stable=True))


def test_a_folder_with_other_files_is_refused_at_once(model: str, recipe: PrecomputeConfig, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").touch()
    stages: list[Progress] = []
    with pytest.raises(ArtifactError, match="letters holds other files"):
        finish(precompute(model, recipe, tmp_path / "letters"), stages.append)
    assert not stages and (tmp_path / "letters" / "dear.txt").exists()


def test_a_text_that_is_not_there_is_said_before_the_model_is_loaded(model: str, recipe: PrecomputeConfig) -> None:
    stages: list[Progress] = []
    with pytest.raises(CorpusError, match="nowhere"):
        finish(precompute(model, replace(recipe, corpora=("/nowhere/text.txt",))), stages.append)
    assert not stages


def test_sizes_that_adapters_leave_no_room_for_are_said_before_training(
    model: str, recipe: PrecomputeConfig, tmp_path: Path
) -> None:
    stages: list[Progress] = []
    wide = replace(recipe, adapters=AdapterConfig(rank=9, alpha=4, steps=6, smallest=0.9), ratios=(1.0, 0.2))
    with pytest.raises(SizeError, match="No cut of this model"):
        finish(precompute(model, wide, tmp_path / "out"), stages.append)
    assert "training adapters" not in {step.stage for step in stages}


@pytest.mark.parametrize("where", ["target", "norm"])
def test_a_model_with_weights_that_are_not_finite_is_refused(
    cache: Path, recipe: PrecomputeConfig, tmp_path: Path, where: str
) -> None:
    base = tiny_base()
    with torch.no_grad():
        block = base.model.model.layers[0]
        (block.self_attn.q_proj if where == "target" else block.input_layernorm).weight.view(-1)[0] = torch.nan
    save(base, tmp_path / "tiny")
    with pytest.raises(ModelError, match=r"is damaged: not all values of .* are finite"):
        finish(precompute(str(tmp_path / "tiny"), recipe, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_every_family(family: str, cache: Path, recipe: PrecomputeConfig, tmp_path: Path) -> None:
    base = tiny_base(family)
    save(base, tmp_path / "other")
    folder = finish(
        precompute(str(tmp_path / "other"), replace(recipe, comparisons=False, knowledge=True), tmp_path / "out")
    )
    elastic = finish(open_model(str(tmp_path / "other"), folder)).elastic
    ids = torch.arange(5, 25)[None]
    assert torch.equal(elastic.model(ids).logits, base.model(ids).logits)


def test_chosen_layers_are_found_again(model: str, recipe: PrecomputeConfig, tmp_path: Path) -> None:
    chosen = replace(recipe, comparisons=False, include=("layers.?",), exclude=("up_proj", "layers.0.self_attn"))
    folder = finish(precompute(model, chosen, tmp_path / "out"))
    artifact = read_artifact(folder)
    assert len(artifact.scores) == 8 and (artifact.include, artifact.exclude) == (chosen.include, chosen.exclude)
    elastic = finish(open_model(model, folder)).elastic
    assert list(elastic.elastic_layers()) == [name for name in elastic.elastic_layers() if name in artifact.scores]
    point, plan = artifact.curves[0].points[1], elastic.set_size(0.6)
    assert (point.ratio, point.parameters) == (plan.ratio, plan.parameters)
    with pytest.raises(ModelError, match="No layer of LlamaForCausalLM matches the pattern 'up'"):
        finish(precompute(model, replace(recipe, exclude=("up",)), tmp_path / "other"))


def test_too_little_text_is_said_before_anything_is_computed(
    model: str, recipe: PrecomputeConfig, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("\n\n".join(f"Line {i}." for i in range(30)))
    stages: list[Progress] = []
    with pytest.raises(CorpusError, match="more text"):
        finish(precompute(model, replace(recipe, corpora=(str(tmp_path / "short.txt"),)), None), stages.append)
    assert {step.stage for step in stages} <= {"loading the model"}
