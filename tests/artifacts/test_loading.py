"""From files to a running model: what fits is opened, what does not is refused, and the cache is never trusted."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from acip_core import paths
from acip_core.artifacts.artifact import Artifact
from acip_core.artifacts.export import export
from acip_core.artifacts.loading import find_artifact, open_model
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import ArtifactError, ModelError
from acip_core.model import factor_cache
from acip_core.model.base_model import DEFAULT_HUB_ID, DEFAULT_MODEL, BaseModel
from acip_core.model.target_layers import target_layers
from acip_core.progress import finish
from tests.support.faults import full_disk
from tests.support.tiny import calibration, save, tiny_artifact, tiny_base


def saved(base: BaseModel, folder: Path) -> str:
    save(base, folder)
    return str(folder)


@pytest.fixture
def model(cache: Path, tmp_path: Path) -> str:
    return saved(tiny_base(), tmp_path / "tiny-llama")


@pytest.fixture
def artifact(tmp_path: Path) -> tuple[Artifact, Path]:
    made = tiny_artifact(tiny_base())
    write_artifact(made, tmp_path / "artifact")
    return made, tmp_path / "artifact"


def stages(model: str, folder: Path) -> list[str]:
    seen: list[str] = []
    finish(open_model(model, folder), lambda step: seen.append(step.stage))
    return list(dict.fromkeys(seen))


def test_opens_and_is_the_base_model_at_full_size(model: str, artifact: tuple[Artifact, Path]) -> None:
    loaded = finish(open_model(model, artifact[1]))
    assert loaded.note == ""
    assert torch.equal(loaded.elastic.model(calibration()).logits, tiny_base().model(calibration()).logits)
    assert loaded.elastic.set_size(0.6).ratio == pytest.approx(0.6, abs=0.02)


def test_factors_run_in_the_type_that_the_model_was_published_in(cache: Path, tmp_path: Path) -> None:
    base = tiny_base()
    base.model.bfloat16().float()
    artifact = tmp_path / "artifact"
    write_artifact(tiny_artifact(base), artifact)
    base.model.bfloat16()
    source = saved(base, tmp_path / "tiny-llama")
    loaded = finish(open_model(source, artifact))
    elastic, layers = loaded.elastic, loaded.elastic.elastic_layers().values()
    assert {(layer.down.dtype, layer.up.dtype) for layer in layers} == {(torch.bfloat16, torch.bfloat16)}
    assert elastic.model.dtype == torch.float32
    plan = elastic.set_size(0.6)
    finish(export(elastic, loaded.artifact, plan, tmp_path / "exported"))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", trust_remote_code=True).float()
    ids = calibration()
    torch.testing.assert_close(exported(ids).logits, elastic.model(ids).logits, rtol=1e-4, atol=1e-4)
    elastic.set_size(1.0)
    plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    assert torch.equal(elastic.model(ids).logits, plain(ids).logits)
    unrounded = finish(open_model(source, artifact, install=False)).elastic.elastic_layers().values()
    assert {layer.down.dtype for layer in unrounded} == {torch.float32}  # to be trained


def test_the_second_time_factors_come_from_the_cache(model: str, artifact: tuple[Artifact, Path]) -> None:
    assert "factorizing" in stages(model, artifact[1])
    assert "factorizing" not in stages(model, artifact[1])


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "folder"])
def test_a_damaged_cache_is_made_again(
    model: str, artifact: tuple[Artifact, Path], cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    def logits() -> torch.Tensor:
        elastic = finish(open_model(model, artifact[1])).elastic
        elastic.set_size(0.5)
        return elastic.model(calibration()).logits

    expected = logits()
    (file,) = (cache / "factors").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-50] ^= 0x55
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"flipped": bytes(content), "truncated": bytes(content[:-40]), "empty": b""}[damage])
    torch.testing.assert_close(logits(), expected)
    assert f"The factor cache {file} is damaged" in caplog.text
    assert "factorizing" not in stages(model, artifact[1])


def test_a_cache_that_cannot_be_written_only_costs_time(
    model: str, artifact: tuple[Artifact, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(factor_cache, "save_file", full)
    with caplog.at_level(logging.WARNING, "acip"):
        assert finish(open_model(model, artifact[1])).elastic.set_size(0.5).ratio < 0.52
    assert "No space left" in caplog.text


def test_a_disk_that_is_really_full_only_costs_time(
    model: str, artifact: tuple[Artifact, Path], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk():
        assert finish(open_model(model, artifact[1])).elastic.set_size(0.5).ratio < 0.52
    assert "File too large" in caplog.text and str(cache) in caplog.text
    assert not list((cache / "factors").iterdir())
    assert "factorizing" in stages(model, artifact[1])


def test_a_cache_folder_that_is_a_file(
    model: str, artifact: tuple[Artifact, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ACIP_CACHE", str(tmp_path / "file"))
    assert finish(open_model(model, artifact[1])).elastic.set_size(0.5).ratio < 0.52


def test_other_weights_of_the_same_model_are_noted(
    cache: Path, artifact: tuple[Artifact, Path], tmp_path: Path
) -> None:
    other = saved(tiny_base(seed=9), tmp_path / "elsewhere" / "tiny-llama")
    assert "close to, not exactly" in finish(open_model(other, artifact[1])).note


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact kept under the name of a model of its own weights, far from the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "_ROOT", tmp_path / "checkout")
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").touch()
    folder = tmp_path / "checkout" / "precomputed" / "tiny-llama"
    write_artifact(tiny_artifact(tiny_base()), folder)
    return folder


def test_found_by_name_only_for_its_own_weights(
    model: str, kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = finish(open_model(model))
    assert (loaded.folder, loaded.note) == (kept, "")
    other = saved(tiny_base(seed=9), tmp_path / "elsewhere" / "tiny-llama")
    with pytest.raises(ArtifactError, match=r"made from other weights \(memory\) .*by its name alone; precompute one"):
        finish(open_model(other))
    assert not caplog.records
    loaded = finish(open_model(other, kept))
    assert [record.message for record in caplog.records] == [loaded.note]
    with pytest.raises(ArtifactError, match="results of these weights do not belong into it"):
        finish(open_model(other, kept, same_weights=True))


@pytest.mark.parametrize("change", [{"recipe": {"quantized": "nf4"}}, {"name": DEFAULT_MODEL}], ids=str)
def test_what_is_meant_for_other_weights_is_used_with_a_note(
    cache: Path, kept: Path, change: dict, caplog: pytest.LogCaptureFixture
) -> None:
    base = replace(tiny_base(seed=9), name=change.get("name", "tiny-llama"), source=DEFAULT_HUB_ID)
    made = tiny_artifact(tiny_base())
    write_artifact(replace(made, **change | {"recipe": made.recipe | change.get("recipe", {})}), kept)
    if base.name != kept.name:
        kept.rename(kept.parent / base.name)
    assert find_artifact(base, same_weights=True).note in caplog.text and "close to, not exactly" in caplog.text


def test_weights_that_only_have_the_name_of_the_default_model(cache: Path, kept: Path) -> None:
    write_artifact(replace(tiny_artifact(tiny_base()), name=DEFAULT_MODEL), kept.parent / DEFAULT_MODEL)
    with pytest.raises(ArtifactError, match="by its name alone"):
        find_artifact(replace(tiny_base(seed=9), name=DEFAULT_MODEL, source="my-tuned"))


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_another_model_is_refused(family: str, cache: Path, artifact: tuple[Artifact, Path], tmp_path: Path) -> None:
    other = saved(tiny_base(family), tmp_path / f"tiny-{family}")
    with pytest.raises(ArtifactError, match="precompute"):
        finish(open_model(other, artifact[1]))


def test_shapes_that_do_not_fit_are_named(model: str, artifact: tuple[Artifact, Path]) -> None:
    made, folder = artifact
    name = next(iter(made.scores))
    write_artifact(replace(made, scores=made.scores | {name: torch.ones(3)}), folder)
    with pytest.raises(ArtifactError, match=f"'{name}' has 3 scores"):
        finish(open_model(model, folder))
    assert made.adapters is not None
    adapter = made.adapters[name]
    wrong = made.adapters | {name: replace(adapter, a=adapter.a[:, :-1])}
    write_artifact(replace(made, adapters=wrong), folder)
    with pytest.raises(ArtifactError, match=f"adapter of '{name}'"):
        finish(open_model(model, folder))
    moment = made.basis[name]
    narrow = replace(moment, scale=moment.scale[:-1], factor=moment.factor[:-1].contiguous())
    write_artifact(replace(made, basis=made.basis | dict.fromkeys(moment.layers, narrow)), folder)
    with pytest.raises(ArtifactError, match=r"basis\.safetensors: '.*' has 31 input channels"):
        finish(open_model(model, folder))


def test_layers_that_do_not_fit_are_named_by_model(model: str, artifact: tuple[Artifact, Path]) -> None:
    made, folder = artifact
    name = list(made.scores)[-1]
    fewer = {part: {n: v for n, v in getattr(made, part).items() if n != name} for part in ("scores", "basis")}
    write_artifact(replace(made, **fewer), folder)
    with pytest.raises(ArtifactError, match=r"names other layers than tiny-llama; precompute"):
        finish(open_model(model, folder))


def test_the_papers_convention_does_not_count_adapters(model: str, artifact: tuple[Artifact, Path]) -> None:
    ours, papers = (finish(open_model(model, artifact[1], count)).elastic for count in (True, False))
    assert papers.planner.smallest == 0 < ours.planner.smallest


def test_a_damaged_model_is_refused(artifact: tuple[Artifact, Path], cache: Path, tmp_path: Path) -> None:
    base = tiny_base()
    with torch.no_grad():
        next(iter(target_layers(base.model).values())).weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"not all values of .*q_proj.weight are finite"):
        finish(open_model(saved(base, tmp_path / "tiny-llama"), artifact[1]))


def test_no_artifact_names_the_way_out(model: str) -> None:
    with pytest.raises(ArtifactError, match="acip_core precompute"):
        finish(open_model(model))
