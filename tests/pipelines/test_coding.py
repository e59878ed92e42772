"""Sizes in bytes added to an artifact: written, read, resumed, and used by Python and the command line."""

from __future__ import annotations

import random
import shutil
import string
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from acip_core.artifacts.coding import ADAPTERS, CODING, MOMENTS, read_coding
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.data.corpus import documents
from acip_core.errors import ArtifactError, CorpusError
from acip_core.model.elastic_model import Calibration
from acip_core.pipelines.coding import CodingConfig, add_codes, fitted_calibration
from acip_core.pipelines.precompute import PrecomputeConfig, precompute
from acip_core.progress import Progress, finish
from acip_core.storage import atomic
from acip_core.storage.verified import read_json
from acip_core.training.adapters import AdapterConfig
from tests.support.tiny import save, tiny_base

SETTINGS = CodingConfig(
    moment_windows=2, shares=(0.9, 0.6, 0.3), curve_windows=2, calibration_windows=1,
    adapters=AdapterConfig(2, 4, 4, smallest=0.6, largest=0.9, distillation=1.0),
)  # fmt: skip
STAGES = (
    "gradient moments", "compressing moments", "making codes", "counting codes", "measuring codes", "starting",
    "refining", "calibrating", "bits at", "both at",
)  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> PrecomputeConfig:
    """Of a text of random letters, without sizes in bytes."""
    text, source = tmp_path_factory.mktemp("text") / "text.txt", random.Random(0)
    lines = ["".join(source.choices(string.ascii_lowercase + " ", k=60)) for _ in range(200)]
    text.write_text("\n\n".join(lines), encoding="utf-8")
    return PrecomputeConfig(
        corpora=(str(text),), window=32, moment_windows=4, score_windows=4, basis_rank=16, adapters=None,
        refining=None, curve_windows=3, ratios=(1.0, 0.6), examples=(), comparisons=False, codes=None, knowledge=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(recipe: PrecomputeConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A tiny model and its artifact without sizes in bytes."""
    place = tmp_path_factory.mktemp("coding")
    model = save(tiny_base("llama"), place / "model")
    finish(precompute(str(model), recipe, place / "artifact"))
    return str(model), place / "artifact"


@pytest.fixture(scope="module")
def coded(made: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The same with them."""
    folder = tmp_path_factory.mktemp("coded") / "artifact"
    shutil.copytree(made[1], folder)
    finish(add_codes(made[0], SETTINGS, folder))
    return made[0], folder


def test_calibration_is_the_line_through_what_was_measured():
    found = fitted_calibration([0.1, 0.2, 0.4], [0.5 * x**1.2 for x in (0.1, 0.2, 0.4)])
    assert (found.scale, found.power) == (pytest.approx(0.5), pytest.approx(1.2))
    assert found(0.3) == pytest.approx(0.5 * 0.3**1.2) and found(0) == 0


@pytest.mark.parametrize(("predicted", "measured"), [([], []), ([0.1], [0.2]), ([0.1, 0.2], [-0.1, 0.3])])
def test_too_little_to_calibrate_changes_nothing(predicted: list[float], measured: list[float]):
    assert fitted_calibration(predicted, measured) == Calibration()


def test_all_that_was_made_is_read(coded: tuple[str, Path]):
    artifact = read_artifact(coded[1])
    coding = read_coding(coded[1], artifact.basis)
    assert coding is not None and coding.adapters is not None
    assert {(curve.mode, len(curve.points) > 0) for curve in coding.curves} == {("bits", True), ("both", True)}
    for curve in coding.curves:
        assert [p.bytes for p in curve.points] == sorted((p.bytes for p in curve.points), reverse=True)
        assert all(0 <= p.agreement <= 1 and p.divergence >= -1e-6 for p in curve.points)


def test_a_run_killed_in_every_stage_ends_in_the_same(
    made: tuple[str, Path], coded: tuple[str, Path], cache: Path, tmp_path: Path
):
    folder = tmp_path / "artifact"
    shutil.copytree(made[1], folder)

    windows: list[int] = []
    for index, stage in enumerate(STAGES):
        seen: list[str] = []
        with closing(add_codes(made[0], SETTINGS, folder)) as steps:
            for step in steps:
                seen.append(step.stage)
                windows += [step.done] if step.stage == "gradient moments" else []
                if step.stage.startswith(stage):
                    break
        assert seen[-1].startswith(stage) and not (folder / CODING).exists()
        finished = STAGES[: max(0, index - 2)]  # two of them are one step together, and those before
        assert not any(stage.startswith(finished) for stage in seen), seen
    assert windows == [1, 2], "a window that was read before a kill is not read again"
    finish(add_codes(made[0], SETTINGS, folder))
    for name in (MOMENTS, ADAPTERS):
        ours, theirs = load_file(folder / name), load_file(coded[1] / name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = (read_json(place / CODING) for place in (folder, coded[1]))
    assert [ours[key] for key in ("calibration", "curves")] == [theirs[key] for key in ("calibration", "curves")]


@pytest.mark.parametrize("replaced", [0, 1, 2])
def test_codes_that_are_made_anew_can_be_killed_between_their_files(
    coded: tuple[str, Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: int
):
    folder = tmp_path / "artifact"
    shutil.copytree(coded[1], folder)
    put, done = atomic._put, list[Path]()

    def killed(new: Path, place: Path) -> None:
        if place.parent == folder:
            if len(done) == replaced:
                raise KeyboardInterrupt
            done.append(place)
        put(new, place)

    monkeypatch.setattr(atomic, "_put", killed)
    other = replace(SETTINGS, moment_windows=1)
    with pytest.raises(KeyboardInterrupt):
        finish(add_codes(coded[0], other, folder))
    monkeypatch.setattr(atomic, "_put", put)
    assert len(done) == replaced and finish(open_model(coded[0], folder)).coding is None
    finish(add_codes(coded[0], other, folder))
    found = finish(open_model(coded[0], folder)).coding
    assert found is not None and found.settings["moment_windows"] == 1


@pytest.mark.parametrize("name", [CODING, MOMENTS, ADAPTERS])
def test_damaged_codes_are_no_obstacle_to_the_command_that_makes_them(
    coded: tuple[str, Path], cache: Path, tmp_path: Path, name: str
):
    folder = tmp_path / "artifact"
    shutil.copytree(coded[1], folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=rf"{name}.* make it again with `python -m acip_core codes`"):
        finish(open_model(coded[0], folder))
    finish(add_codes(coded[0], SETTINGS, folder))
    assert finish(open_model(coded[0], folder)).coding is not None


def killed_at_the_curves(step: Progress) -> None:
    if step.stage.startswith("bits at"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("change", ["artifact", "text"])
def test_what_a_killed_run_left_is_of_its_artifact_and_text_alone(
    made: tuple[str, Path], recipe: PrecomputeConfig, cache: Path, tmp_path: Path, change: str
):
    text = tmp_path / "text.txt"
    shutil.copy(recipe.corpora[0], text)
    own, config = replace(recipe, corpora=(str(text),)), replace(SETTINGS, adapters=None, shares=(0.6,))
    first = second = finish(precompute(made[0], own, tmp_path / "first"))
    with pytest.raises(KeyboardInterrupt):
        finish(add_codes(made[0], config, first), killed_at_the_curves)
    if change == "artifact":
        second = finish(precompute(made[0], replace(own, moment_windows=2), tmp_path / "second"))
    else:
        text.write_text(text.read_text(encoding="utf-8").replace("e", "E"), encoding="utf-8")
    stages: set[str] = set()
    finish(add_codes(made[0], config, second), lambda step: stages.add(step.stage))
    assert "gradient moments" in stages


def test_a_new_artifact_has_what_would_be_added_to_it(made: tuple[str, Path], recipe: PrecomputeConfig, tmp_path: Path):
    config = replace(SETTINGS, adapters=None)
    with_codes, new, added = replace(recipe, codes=config), tmp_path / "new", tmp_path / "added"

    with pytest.raises(KeyboardInterrupt):
        finish(precompute(made[0], with_codes, new), killed_at_the_curves)
    assert not new.exists()
    stages: set[str] = set()
    finish(precompute(made[0], with_codes, new), lambda step: stages.add(step.stage))
    assert stages.isdisjoint({"scoring", "gradient moments", "making codes"}), "it was there"
    shutil.copytree(made[1], added)
    finish(add_codes(made[0], config, added))
    ours, theirs = load_file(new / MOMENTS), load_file(added / MOMENTS)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = (read_json(place / CODING) for place in (new, added))
    assert all(ours[key] == theirs[key] for key in ("fingerprint", "calibration", "curves", "settings"))
    finish(precompute(made[0], replace(with_codes, codes=replace(config, seed=1)), new))
    assert read_json(new / CODING)["settings"]["seed"] == 1, "new ones replace those of the same basis"


def test_texts_of_a_killed_run_with_other_codes_are_not_taken_over(
    made: tuple[str, Path], recipe: PrecomputeConfig, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    config = replace(SETTINGS, adapters=None, shares=(0.6,))
    run = replace(recipe, examples=("hello",), codes=config)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("acip_core.pipelines.precompute.write_artifact", kill)
        finish(precompute(made[0], run, tmp_path / "out"))
    stages: set[str] = set()
    other = replace(run, codes=replace(config, seed=1))
    finish(precompute(made[0], other, tmp_path / "out"), lambda step: stages.add(step.stage))
    assert "completing the examples" in stages, "those of directions were there, those of bytes are others"


def test_a_plain_basis_is_not_taken_for_moments_of_inputs(
    made: tuple[str, Path], recipe: PrecomputeConfig, tmp_path: Path
):
    settings = replace(SETTINGS, adapters=None, shares=(0.6,))
    finish(precompute(made[0], replace(recipe, basis="svd", codes=settings), tmp_path / "svd"))
    coding = read_coding(tmp_path / "svd", read_artifact(tmp_path / "svd").basis)
    assert coding is not None and all(len(moment.columns) for moment in coding.moments.inputs.values())


def test_a_text_without_validation_documents_serves_all_the_same(
    made: tuple[str, Path], recipe: PrecomputeConfig, tmp_path: Path
):
    held_back = set(documents(recipe.corpora[0], "validation"))
    whole = Path(recipe.corpora[0]).read_text(encoding="utf-8").split("\n\n")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(line for line in whole if line.strip() not in held_back), encoding="utf-8")
    with pytest.raises(CorpusError):
        documents(str(text), "validation")
    settings = replace(SETTINGS, adapters=None, shares=(0.6,))
    folder = finish(precompute(made[0], replace(recipe, corpora=(str(text),), codes=settings), tmp_path / "out"))
    assert (folder / CODING).is_file()
