"""Artifacts: what is written is read, PEFT reads the adapters, and anything damaged is refused by file and field."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from acip_core.artifacts import writer as module
from acip_core.artifacts.artifact import Artifact
from acip_core.artifacts.completions import read_completions
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.renewal import renew
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import ArtifactError, StorageError
from acip_core.model.target_layers import target_layers
from acip_core.storage.verified import write_json
from tests.support.faults import full_disk
from tests.support.results import RESULTS, resealed
from tests.support.tiny import calibration, tiny_artifact, tiny_base, tiny_model


def test_round_trip(written: tuple[Artifact, Path]) -> None:
    artifact, folder = written
    read = read_artifact(folder)
    for field in ("name", "source", "fingerprint", "recipe", "curves"):
        assert getattr(read, field) == getattr(artifact, field)
    assert all(torch.equal(read.scores[name], score) for name, score in artifact.scores.items())
    assert set(read.basis) == set(artifact.basis)
    for name, moment in artifact.basis.items():
        torch.testing.assert_close(read.basis[name].root().matrix(), moment.root().matrix(), rtol=0, atol=0)
    assert read.adapters is not None and artifact.adapters is not None
    for name, adapter in artifact.adapters.items():  # stored in bfloat16
        torch.testing.assert_close(read.adapters[name].a, adapter.a, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(read.adapters[name].b, adapter.b, rtol=1e-2, atol=1e-3)
    assert list(read.history) == list(artifact.history)


def test_without_adapters(tmp_path: Path) -> None:
    write_artifact(tiny_artifact(tiny_base(), adapter_rank=0), tmp_path / "plain")
    assert read_artifact(tmp_path / "plain").adapters is None
    assert not list((tmp_path / "plain").glob("adapter*"))


def test_peft_reads_the_adapters(family: str, tmp_path: Path) -> None:
    base = tiny_base(family)
    artifact = tiny_artifact(base)
    write_artifact(artifact, tmp_path / "tiny")
    adapters = read_artifact(tmp_path / "tiny").adapters
    assert adapters is not None
    merged = tiny_base(family).model
    with torch.no_grad():
        for name, layer in target_layers(merged).items():
            layer.weight += (adapters[name].b @ adapters[name].a).to(layer.weight)
    tuned = PeftModel.from_pretrained(tiny_model(family), tmp_path / "tiny")  # as transformers loads it
    torch.testing.assert_close(tuned(calibration()).logits, merged(calibration()).logits, rtol=1e-3, atol=1e-3)


def test_peft_reads_the_adapters_of_chosen_layers(tmp_path: Path) -> None:
    artifact = tiny_artifact(tiny_base(), exclude=("layers.0.mlp",))
    write_artifact(artifact, tmp_path / "tiny")
    tuned = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "tiny")
    found = {name.partition(".lora_A")[0] for name, _ in tuned.named_parameters() if "lora_A" in name}
    assert found == {f"base_model.model.{name}" for name in artifact.scores}
    assert len(found) == 11
    settings = json.loads((tmp_path / "tiny" / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["target_modules"] == sorted(artifact.scores)  # in the same order in every process


def test_the_card_shows_the_curve(written: tuple[Artifact, Path]) -> None:
    card = (written[1] / "README.md").read_text(encoding="utf-8")
    assert "| 50% | 240 (8 ×) | 160 (8 ×) |" in card


def test_an_artifact_of_before_there_were_digests(
    copy: Path, written: tuple[Artifact, Path], caplog: pytest.LogCaptureFixture
) -> None:
    description = json.loads((copy / "acip.json").read_text())
    old = {key: value for key, value in description.items() if key not in ("sha256", "files")} | {"format_version": 1}
    (copy / "acip.json").write_text(json.dumps(old, indent=1) + "\n")
    (copy / "completions.json").write_text(json.dumps(RESULTS["completions.json"][0]["completions"]))
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.suffix != ".json"}
    assert read_artifact(copy).curves == written[0].curves
    assert f"acip_core renew {copy}" in caplog.text
    renew(copy)
    caplog.clear()
    assert read_artifact(copy).curves == written[0].curves and not caplog.text
    assert (copy / "acip.json").read_bytes() == (written[1] / "acip.json").read_bytes()
    assert "sha256" in (copy / "completions.json").read_text() and read_completions(copy)[0].texts == {100: "b"}
    assert before == {path.name: path.read_bytes() for path in copy.iterdir() if path.suffix != ".json"}


def test_an_edited_card_is_renewed(copy: Path) -> None:
    (copy / "README.md").write_text("# Mine\n")
    with pytest.raises(ArtifactError, match=r"README\.md is damaged .*acip_core renew"):
        read_artifact(copy)
    renew(copy)
    read_artifact(copy)


def test_a_perplexity_beyond_all_numbers_is_left_out(tmp_path: Path) -> None:
    artifact = tiny_artifact(tiny_base())
    first, second = artifact.curves
    ruined = replace(first, points=(*first.points[:-1], replace(first.points[-1], perplexity=math.inf)))
    write_artifact(replace(artifact, curves=(ruined, replace(second, base_perplexity=math.inf))), tmp_path / "a")
    (curve,) = read_artifact(tmp_path / "a").curves
    assert curve.points == first.points[:-1]


def test_measurements_stay_when_the_artifact_is_replaced(copy: Path, written: tuple[Artifact, Path]) -> None:
    for name, (content, _) in RESULTS.items():
        write_json(copy / name, content)
    write_artifact(written[0], copy)
    assert {name for name in RESULTS if (copy / name).exists()} == RESULTS.keys() - {"completions.json"}
    write_artifact(replace(written[0], fingerprint="other"), copy)
    assert not [name for name in RESULTS if (copy / name).exists()]


@pytest.mark.parametrize("fingerprint", ["same", "other"])
def test_what_is_not_of_an_artifact_stays_when_it_is_replaced(
    fingerprint: str, copy: Path, written: tuple[Artifact, Path], tmp_path: Path
) -> None:
    (private := tmp_path / "private").write_text("mine")
    private.chmod(0o600)
    for name in (".git/HEAD", "notes/run.sh", "LICENSE", "report.html"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(name)
    (copy / "notes/run.sh").chmod(0o755)
    (copy / "link").symlink_to(private)
    write_artifact(written[0] if fingerprint == "same" else replace(written[0], fingerprint="other"), copy)
    for name in (".git/HEAD", "notes/run.sh", "LICENSE", "report.html"):
        assert (copy / name).read_text() == name
    assert os.access(copy / "notes/run.sh", os.X_OK)
    assert (copy / "link").readlink() == private and private.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("change", ["scale of the wrong length", "NaN scale", "flat factor", "float factor", "side"])
def test_damaged_basis(copy: Path, change: str) -> None:
    from safetensors import safe_open

    path = copy / "basis.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    scale = next(name for name in tensors if name.endswith(".scale"))
    if change.startswith("scale"):
        tensors[scale] = tensors[scale][:-1].clone()
    elif change.startswith("NaN"):
        tensors[scale][0] = torch.nan
    elif change == "side":
        metadata["groups"] = metadata["groups"].replace('"output"', '"outside"')
    else:
        factor = scale.replace(".scale", ".factor")
        tensors[factor] = tensors[factor].flatten() if change.startswith("flat") else tensors[factor].float()
    save_file(tensors, path, {"groups": metadata["groups"]})
    resealed(copy)
    with pytest.raises(ArtifactError, match=r"basis\.safetensors"):
        read_artifact(copy)


def test_a_full_disk_leaves_the_old_artifact(
    written: tuple[Artifact, Path], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    newer = replace(written[0], name="newer")
    monkeypatch.setattr(module, "save_basis", full)
    with pytest.raises(StorageError, match="No space left"):
        write_artifact(newer, copy)
    monkeypatch.undo()
    with pytest.raises(StorageError, match="File too large"), full_disk():
        write_artifact(newer, copy)
    assert read_artifact(copy).name == written[0].name
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    write_artifact(newer, copy)
    assert read_artifact(copy).name == "newer"


def test_only_artifacts_and_empty_folders_are_replaced(written: tuple[Artifact, Path], tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear reader")
    for taken in (tmp_path / "letters", tmp_path / "letters" / "dear.txt"):
        with pytest.raises(ArtifactError, match="holds other files") as caught:
            write_artifact(written[0], taken)
        assert str(taken) in str(caught.value)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "Dear reader"
    (tmp_path / "empty").mkdir()
    for free in (tmp_path / "empty", tmp_path / "new" / "deep", written[1]):
        write_artifact(written[0], free)
        assert read_artifact(free).name == written[0].name
