"""What every size still knows: asked at every position of the slider in every mode, resumed, kept in the artifact."""

from __future__ import annotations

import random
import string
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from acip_core.artifacts.artifact import Artifact
from acip_core.artifacts.knowledge import FILE, read_knowledge
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from acip_core.evaluation.facts import Fact, known_facts
from acip_core.model.size_planner import BITS, BOTH, DIRECTIONS
from acip_core.model.tracks import byte_track, directions_track
from acip_core.pipelines import knowledge
from acip_core.pipelines.coding import CodingConfig
from acip_core.pipelines.knowledge import KnowledgeRun, measure_knowledge
from acip_core.pipelines.precompute import precompute
from acip_core.pipelines.recipes import PrecomputeConfig
from acip_core.progress import Progress, finish
from acip_core.storage.resumable import ResumableRun
from acip_core.storage.verified import read_tensors
from tests.support.coded import coded_elastic
from tests.support.commands import run
from tests.support.knowledge import tiny_facts
from tests.support.tiny import save, tiny_artifact, tiny_base, tiny_elastic


@pytest.fixture(autouse=True)
def _own_cache(cache: Path) -> None:
    """Answers are asked for anew in every test."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> tuple[Fact, ...]:
    """The facts that commands ask for."""
    facts = tiny_facts(tiny_base())
    monkeypatch.setattr(knowledge, "ASKED", facts)
    return facts


@pytest.fixture
def made(tmp_path: Path) -> tuple[str, Path, Artifact]:
    """A tiny model and its artifact."""
    base = tiny_base()
    artifact = tiny_artifact(base)
    model = save(base, tmp_path / "tiny-llama")
    write_artifact(artifact, tmp_path / "artifact")
    return str(model), tmp_path / "artifact", artifact


def test_every_position_of_every_mode_says_what_it_says_when_asked_alone() -> None:
    elastic = coded_elastic()
    facts = tiny_facts(elastic.base)
    asking = KnowledgeRun(elastic, ResumableRun(None), (*facts, Fact("Nobody knows", " this", "phrases")))
    finish(asking.ask(elastic))
    found = asking.knowledge()
    assert found.facts == facts and found.modes.keys() == {DIRECTIONS, BITS, BOTH}
    shares = set()
    for mode, of in found.modes.items():
        planner = elastic.planners[mode]
        track = directions_track(planner) if mode == DIRECTIONS else byte_track(planner, 71)  # type: ignore[arg-type]
        sizes = of.nearest([track.plan_at(percent)[1].bytes for percent in track.percents])
        assert sizes is not None and sizes[-1] == 0 and sorted(sizes, reverse=True) == sizes
        for place in (0, 20, 45, -1):
            with elastic.on_this_thread(track.plan_at(track.percents[place])[1]):
                alone = finish(known_facts(elastic.model, elastic.tokenizer, facts))
            assert (of.rank[sizes[place]] == 1).tolist() == list(alone)
            shares.add(sum(alone))
    assert max(shares) == len(facts) and len(shares) > 3


def test_what_is_likeliest_goes_with_rank_and_probability() -> None:
    elastic = tiny_elastic()
    asking = KnowledgeRun(elastic, ResumableRun(None), tiny_facts(elastic.base))
    finish(asking.ask(elastic))
    found = asking.knowledge()
    of, strip = found.modes[DIRECTIONS], list(found.strip)
    right = torch.tensor(found.tokens)[strip]
    assert ((of.top[..., 0] == right) == (of.rank[:, strip] == 1)).all()
    assert torch.equal(of.top_probability, of.top_probability.sort(-1, descending=True).values)
    lower = of.rank[:, strip] <= of.top.shape[-1]
    where = (of.rank[:, strip].long() - 1).clamp(max=of.top.shape[-1] - 1)[..., None]
    assert (of.top.gather(-1, where)[..., 0] == right)[lower].all()
    assert torch.equal(of.top_probability.gather(-1, where)[..., 0][lower], of.probability[:, strip][lower])


def test_equal_plans_are_asked_once() -> None:
    elastic, steps = coded_elastic(), list[Progress]()
    asking = KnowledgeRun(elastic, ResumableRun(None), tiny_facts(elastic.base))
    finish(asking.ask(elastic), steps.append)
    track = byte_track(elastic.planners[BITS], 71)  # type: ignore[arg-type]
    distinct = {track.plan_at(percent)[1] for percent in track.percents}
    assert {step.total for step in steps if step.stage.endswith(BITS)} == {len(distinct)} and len(distinct) < 71
    asked = [step for step in steps if step.stage == "asking for facts" and step.done == step.total]
    assert len(asked) == 1 + 70 + len(distinct) - 1  # the full model, directions, bits; and the plans of both are those
    of = asking.knowledge().modes
    assert torch.equal(of[BITS].rank, of[BOTH].rank)  # without adapters the plans are the same


def test_a_killed_run_continues_to_the_same_file(
    made: tuple[str, Path, Artifact], asked: tuple[Fact, ...], cache: Path
) -> None:
    model, folder, _ = made
    finish(measure_knowledge(model, folder))
    whole = read_tensors(folder / FILE)
    (folder / FILE).unlink()

    def kill(step: Progress) -> None:
        if step.stage == "asking for facts, directions" and step.done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(measure_knowledge(model, folder), kill)
    assert not (folder / FILE).exists() and list((cache / "knowledge").rglob("*.safetensors"))
    steps: list[Progress] = []
    finish(measure_knowledge(model, folder), steps.append)
    assert sum(step.stage == "asking for facts" and step.done == step.total for step in steps) == 71 - 30
    tensors, described = read_tensors(folder / FILE)
    assert described == whole[1] and all(torch.equal(tensor, whole[0][name]) for name, tensor in tensors.items())
    assert not list((cache / "knowledge").iterdir())


def test_an_opened_model_has_it(
    made: tuple[str, Path, Artifact], asked: tuple[Fact, ...], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    model, folder, artifact = made
    assert finish(open_model(model, folder)).knowledge is None
    code, output = run(monkeypatch, capsys, "measure", "knowledge", model, "--artifact", str(folder))
    assert code == 0 and f"knows {len(asked)} facts" in output and "directions, MB" in output
    loaded = finish(open_model(model, folder))
    assert loaded.knowledge is not None and loaded.knowledge.facts == asked
    assert finish(open_model(model, folder, precision="int8")).knowledge is None
    write_artifact(replace(artifact, curves=artifact.curves[:1]), folder)
    assert read_knowledge(folder) is not None  # the same directions


def test_a_model_that_knows_nothing_has_none(made: tuple[str, Path, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder, _ = made
    monkeypatch.setattr(knowledge, "ASKED", (Fact("Nobody knows", " this", "phrases"),))
    assert finish(measure_knowledge(model, folder)).facts == ()
    assert (folder / FILE).exists() and finish(open_model(model, folder)).knowledge is None


def test_precompute_asks_too(
    made: tuple[str, Path, Artifact], asked: tuple[Fact, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, source = tmp_path / "text.txt", random.Random(0)
    lines = ["".join(source.choices(string.ascii_lowercase + " ", k=60)) for _ in range(200)]
    text.write_text("\n\n".join(lines), encoding="utf-8")
    recipe = PrecomputeConfig(
        corpora=(str(text),), window=32, moment_windows=2, score_windows=2, basis_rank=16, adapters=None,
        refining=None, curve_windows=2, ratios=(1.0, 0.6), examples=(), comparisons=False,
        codes=CodingConfig(moment_windows=2, shares=(0.9, 0.3), curve_windows=2, calibration_windows=1),
    )  # fmt: skip
    out = finish(precompute(made[0], recipe, tmp_path / "out"))
    whole = read_knowledge(out)
    assert whole is not None and whole.modes.keys() == {DIRECTIONS, BITS, BOTH} and whole.facts == asked
    again = finish(measure_knowledge(made[0], out))
    assert again.strip == whole.strip
    for mode, of in again.modes.items():
        for part in ("bytes", "rank", "top"):
            assert torch.equal(getattr(of, part), getattr(whole.modes[mode], part))
    (curve,) = read_artifact(out).curves
    assert curve.points[0].divergence == pytest.approx(0, abs=1e-6)  # logits are kept in half precision
    assert curve.points[0].agreement == 1
    assert (curve.points[1].divergence or 0) > 0 and 0 <= (curve.points[1].agreement or 0) < 1
    finish(precompute(made[0], replace(recipe, knowledge=False), tmp_path / "without"))
    assert not (tmp_path / "without" / FILE).exists()
