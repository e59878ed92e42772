"""Sizes in bytes added to an artifact: written, read, resumed, and used by Python and the command line."""

from __future__ import annotations

import math
import random
import shutil
import string
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import acip_core
from acip_core import AcipModel
from acip_core.api import bars
from acip_core.artifacts.coding import ADAPTERS, CODING, MOMENTS, read_coding
from acip_core.artifacts.loading import open_model
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from acip_core.data.corpus import documents
from acip_core.errors import (
    AcipError,
    ArgumentError,
    ArtifactError,
    CorpusError,
    ModelError,
    PrecisionError,
    SizeError,
)
from acip_core.model.coding_moments import read_coding_moments
from acip_core.model.elastic_model import Calibration
from acip_core.pipelines.coding import CodingConfig, add_codes, fitted_calibration
from acip_core.pipelines.precompute import PrecomputeConfig, precompute
from acip_core.progress import Progress, finish
from acip_core.storage.verified import read_json
from acip_core.training.adapters import AdapterConfig
from tests.support.commands import run
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


def test_a_new_artifact_has_what_would_be_added_to_it(made: tuple[str, Path], recipe: PrecomputeConfig, tmp_path: Path):
    config = replace(SETTINGS, adapters=None)
    with_codes, new, added = replace(recipe, codes=config), tmp_path / "new", tmp_path / "added"

    def kill(step: Progress) -> None:
        if step.stage.startswith("bits at"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(precompute(made[0], with_codes, new), kill)
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


def test_python_spends_bytes(coded: tuple[str, Path]):
    model = AcipModel.from_pretrained(coded[0], artifact=coded[1])
    plan = model.set_size(0.5, mode="bits")
    assert plan.mode == "bits" and model.size == plan.ratio <= 0.5
    assert model.set_bytes(plan.bytes).bytes <= plan.bytes
    assert model.plan.mode == "both"
    assert model.set_quality(0).loss == 0 and model.set_quality(1e6).bytes < plan.bytes
    assert isinstance(model.complete("abc", max_new_tokens=3), str)
    assert model.perplexity("some text of a few tokens") > 1
    assert model.set_size(0.5, mode="directions").mode == "directions"


def test_both_is_spent_where_nobody_says_what(coded: tuple[str, Path]):
    model = AcipModel.from_pretrained(coded[0], artifact=coded[1])
    assert model.plan.saved == 0 and model.elastic.coded is None, "the original needs no codes"
    plan = model.set_size(0.5)
    assert (plan.mode, plan) == ("both", model.elastic.planners["both"].at_ratio(0.5)) and model.size <= 0.5
    assert AcipModel.from_pretrained(coded[0], artifact=coded[1], size=0.5).plan == plan
    assert model.set_size(1.0) == model.elastic.planner.at_ratio(1.0)
    assert model.set_size(1.0, mode="both").mode == "both"
    with pytest.warns(DeprecationWarning):
        former = acip_core.load(*coded)
    assert former.set_size(0.5).mode == "directions", "as in the release before"


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"precision": "int8"}, PrecisionError, "Layers in int8"),
        ({"device_map": "disk"}, ModelError, "stay in their files"),
        ({}, ArtifactError, "acip_core codes` adds them"),
    ],
)
def test_where_no_bits_can_be_spent_directions_are_and_that_is_said(
    made: tuple[str, Path],
    coded: tuple[str, Path],
    options: dict[str, str],
    kind: type[AcipError],
    words: str,
    caplog: pytest.LogCaptureFixture,
):
    model, artifact = coded if options else made
    opened = AcipModel.from_pretrained(model, artifact=artifact, **options)
    assert not caplog.text
    assert opened.set_size(0.6).mode == opened.set_size(0.7).mode == "directions"
    assert caplog.text.count("Directions are spent instead") == caplog.text.count(words) == 1
    assert opened.complete("abc", max_new_tokens=2)
    before = opened.plan
    for refused in (lambda: opened.set_size(0.6, mode="bits"), lambda: opened.set_quality(0.1)):
        with pytest.raises(kind, match=words):
            refused()
    assert opened.plan == before


class Bar:
    """A bar that keeps what it draws."""

    def __init__(self, drawn: list[str], total: int, desc: str):
        self.drawn, self.n = drawn, 0
        drawn.append(desc)

    def set_postfix_str(self, note: str) -> None:
        self.drawn.append(note)

    def close(self) -> None:
        self.drawn.append("closed")


@pytest.mark.parametrize("told", [True, False])
def test_making_codes_is_shown(
    coded: tuple[str, Path],
    told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(bars, "_PATIENCE", 0)
    drawn: list[str] = []
    monkeypatch.setattr(bars, "tqdm", lambda **bar: Bar(drawn, **bar))  # the Hub's is silent in tests
    monkeypatch.setenv("ACIP_CACHE", str(tmp_path))
    steps: list[Progress] = []
    options = {"on_progress": steps.append} if told else {}
    for is_first in (True, False):
        steps.clear()
        drawn.clear()
        AcipModel.from_pretrained(coded[0], artifact=coded[1], size=0.5, **options)
        shown = "".join([*drawn, *(f"{step.stage}, {step.note}" for step in steps)])
        assert ("making codes" in shown) == ("once on this machine" in shown) == is_first
        assert bool(steps) == told != ("closed" in drawn)


@pytest.mark.parametrize("size", [0, -1, math.nan, "much", 1])
def test_python_refuses_bytes_that_no_plan_has(coded: tuple[str, Path], size: object):
    model = AcipModel.from_pretrained(coded[0], artifact=coded[1])
    before = model.plan
    with pytest.raises(SizeError):
        model.set_bytes(size)  # type: ignore[arg-type]
    assert model.plan == before


def test_modes_that_there_are_not(made: tuple[str, Path], coded: tuple[str, Path]):
    with pytest.raises(ArgumentError, match="directions, bits, both"):
        AcipModel.from_pretrained(coded[0], artifact=coded[1]).set_size(0.5, mode="bytes")
    with pytest.raises(ArgumentError, match="directions, bits, both"):
        AcipModel.from_pretrained("/nowhere", mode="bytes")
    with pytest.raises(ArgumentError, match="by a share"):
        AcipModel.from_pretrained(coded[0], artifact=coded[1]).set_bytes(1e6, mode="directions")
    with pytest.raises(ArtifactError, match="acip_core codes"):
        AcipModel.from_pretrained(made[0], artifact=made[1]).set_bytes(1e6)


def test_the_command_line_spends_bytes(
    coded: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    model, folder, out = coded[0], str(coded[1]), tmp_path / "export"
    target = ("--artifact", folder, "--worse", "50")
    code, text = run(monkeypatch, capsys, "generate", model, "abc", *target, "--max-new-tokens", "3")
    assert code == 0 and text.strip()
    loaded = AcipModel.from_pretrained(model, artifact=folder)
    size = loaded.set_quality(0.5).bytes
    megabytes = ("--megabytes", str((size + 1) / 1e6))
    assert run(monkeypatch, capsys, "export", model, str(out), "--artifact", folder, *megabytes)[0] == 0
    tensors = load_file(out / "model.safetensors")
    assert sum(tensor.nbytes for tensor in tensors.values()) == loaded.set_bytes(size + 1).bytes
    code, text = run(monkeypatch, capsys, "generate", model, "abc", *target[:2], "--megabytes", "0.5")
    assert code == 0 and "MB are enough: no plan within 0.5 MB loses less" in text
    code, text = run(monkeypatch, capsys, "generate", model, "abc", *target, *megabytes)
    assert code == 2 and "one of --size, --megabytes and --worse" in text
    code, text = run(monkeypatch, capsys, "export", model, str(tmp_path / "none"), "--artifact", folder)
    assert code == 2 and "Name the size" in text


def test_a_share_on_the_command_line_is_of_the_bytes(
    coded: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    model, artifact = coded[0], ("--artifact", str(coded[1]), "--size", "0.5")
    loaded = AcipModel.from_pretrained(model, artifact=coded[1])
    for options, mode in (((), "both"), (("--spend", "bits"), "bits"), (("--spend", "directions"), "directions")):
        plan = loaded.set_size(0.5, mode)
        code, text = run(monkeypatch, capsys, "generate", model, "abc", *artifact, *options, "--max-new-tokens", "3")
        assert code == 0 and loaded.complete("abc", max_new_tokens=3) in text
        assert ("share of the published bytes now" in text) == (not options)
        out = tmp_path / mode
        assert run(monkeypatch, capsys, "export", model, str(out), *artifact, *options)[0] == 0
        assert sum(tensor.nbytes for tensor in load_file(out / "model.safetensors").values()) == plan.bytes
    code, text = run(monkeypatch, capsys, "export", model, str(tmp_path / "whole"), *artifact[:2], "--size", "1")
    assert code == 0 and "now" not in text and "auto_map" not in (tmp_path / "whole/config.json").read_text()


def test_operating_points_stay_with_their_basis(coded: tuple[str, Path], tmp_path: Path):
    folder = tmp_path / "artifact"
    shutil.copytree(coded[1], folder)
    artifact = read_artifact(folder)
    write_artifact(artifact, folder)
    assert read_coding(folder, artifact.basis) is not None
    other = {name: replace(moment, scale=moment.scale * 2) for name, moment in artifact.basis.items()}
    write_artifact(replace(artifact, basis=other), folder)
    assert read_coding(folder, other) is None


@pytest.mark.parametrize("name", [CODING, MOMENTS, ADAPTERS])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damage_is_named(coded: tuple[str, Path], tmp_path: Path, name: str, damage: str):
    if (name, damage) == (CODING, "gone"):
        return  # such an artifact has directions alone
    folder = tmp_path / "artifact"
    shutil.copytree(coded[1], folder)
    content = bytearray((folder / name).read_bytes())
    (folder / name).unlink()
    if damage == "flip":
        content[len(content) // 2] ^= 4
    if damage != "gone":
        (folder / name).write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    with pytest.raises(ArtifactError, match=name):
        finish(open_model(coded[0], folder))


def test_moments_that_are_not_finite_are_refused(coded: tuple[str, Path], tmp_path: Path):
    tensors = load_file(coded[1] / MOMENTS)
    with safe_open(coded[1] / MOMENTS, "pt") as file:
        metadata = {k: v for k, v in file.metadata().items() if k != "sha256"}
    name = next(key for key in tensors if key.endswith(".gradients.scale"))
    tensors[name][0] = torch.nan
    save_file(tensors, tmp_path / "broken.safetensors", metadata)
    with pytest.raises(ValueError, match="not finite"):
        read_coding_moments(tmp_path / "broken.safetensors", read_artifact(coded[1]).basis)
