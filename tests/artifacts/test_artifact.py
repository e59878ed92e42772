"""Artifacts: what is written is read, PEFT reads the adapters, and anything damaged is refused by file and field."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from acip_core.artifacts import writer as module
from acip_core.artifacts.ablation_rows import read_ablation
from acip_core.artifacts.artifact import Artifact
from acip_core.artifacts.comparison import read_comparison
from acip_core.artifacts.completions import read_completions
from acip_core.artifacts.peers import read_peers
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.renewal import renew
from acip_core.artifacts.task_results import read_evaluation
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import ArtifactError, StorageError
from acip_core.model.target_layers import target_layers
from acip_core.storage.digests import file_digest
from acip_core.storage.verified import read_tensors, write_json
from tests.support.coded import made_up_peers
from tests.support.faults import full_disk
from tests.support.tiny import calibration, tiny_artifact, tiny_base, tiny_model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    folder = tmp_path_factory.mktemp("artifact") / "tiny"
    artifact = tiny_artifact(tiny_base())
    write_artifact(artifact, folder)
    return artifact, folder


@pytest.fixture
def copy(written: tuple[Artifact, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[1], tmp_path / "copy"))


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


def test_the_card_shows_the_curve(written: tuple[Artifact, Path]) -> None:
    card = (written[1] / "README.md").read_text(encoding="utf-8")
    assert "| 50% | 240 (8 ×) | 160 (8 ×) |" in card


Damage = Callable[[Path], object]


def _edit_json(file: str, change: Callable[[dict], object]) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return damage


def _edit_tensors(file: str, change: Callable[[dict], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file(tensors, folder / file)

    return damage


def _first(change: Callable[[torch.Tensor], torch.Tensor], ending: str = "") -> Callable[[dict], object]:
    def on_first(tensors: dict) -> None:
        name = next(name for name in tensors if name.endswith(ending))
        tensors[name] = change(tensors[name]).contiguous()

    return on_first


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor.view(-1)[0] = torch.nan
    return tensor


def _resealed(folder: Path) -> None:
    """Make an edit look as if it had been written so: what is checked besides digests comes to light."""
    if not (path := folder / "acip.json").is_file():
        return
    try:
        description = json.loads(path.read_text())
        description.pop("sha256")
        for name, told in description["files"].items():
            if (folder / name).is_file():
                told |= {"bytes": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        write_json(path, description)
    except (ValueError, AttributeError, TypeError, RecursionError):  # beyond repair
        return


def _truncated(file: str) -> Damage:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-20])


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no folder": (shutil.rmtree, "No artifact at"),
    "no scores": (lambda f: (f / "scores.safetensors").unlink(), "scores.safetensors is missing"),
    "no basis": (lambda f: (f / "basis.safetensors").unlink(), "basis.safetensors is missing"),
    "no adapters": (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
    "no adapter config": (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json"),
    "no history": (lambda f: (f / "history.safetensors").unlink(), "history.safetensors is missing"),
    "truncated scores": (_truncated("scores.safetensors"), "scores.safetensors is damaged"),
    "truncated basis": (_truncated("basis.safetensors"), "basis.safetensors is damaged"),
    "truncated adapters": (_truncated("adapter_model.safetensors"), "adapter_model.safetensors is damaged"),
    "empty scores": (lambda f: (f / "scores.safetensors").write_bytes(b""), "scores.safetensors is damaged"),
    "no JSON": (lambda f: (f / "acip.json").write_text("{"), "acip.json is damaged"),
    "binary JSON": (lambda f: (f / "acip.json").write_bytes(b"\xff\xfe\x00"), "acip.json is damaged"),
    "JSON list": (lambda f: (f / "acip.json").write_text("[]"), "acip.json is damaged"),
    "version": (_edit_json("acip.json", lambda c: c.update(format_version=9)), "format_version is 9"),
    **{
        f"no {field}": (_edit_json("acip.json", lambda c, field=field: c.pop(field)), f"field '{field}'")
        for field in ("name", "source", "fingerprint", "recipe", "curves")
    },
    "no version": (_edit_json("acip.json", lambda c: c.pop("format_version")), "format_version is None"),
    "number as name": (_edit_json("acip.json", lambda c: c.update(name=3)), "field 'name'"),
    "curve of nothing": (_edit_json("acip.json", lambda c: c["curves"][0].update(points=[])), "field 'curves'"),
    "curve without name": (_edit_json("acip.json", lambda c: c["curves"][0].update(corpus=None)), "field 'curves'"),
    "curve of text": (_edit_json("acip.json", lambda c: c.update(curves=["low"])), "field 'curves'"),
    "unknown curve field": (_edit_json("acip.json", lambda c: c["curves"][0].update(color="red")), "field 'curves'"),
    "no tokens": (_edit_json("acip.json", lambda c: c["curves"][0].update(tokens=0)), "field 'curves'"),
    "curves": (_edit_json("acip.json", lambda c: c["curves"][0].pop("points")), "field 'curves'"),
    "error below 0": (
        _edit_json("acip.json", lambda c: c["curves"][0]["points"][0].update(error=-0.1)),
        "field 'curves'",
    ),
    "curve point": (_edit_json("acip.json", lambda c: c["curves"][0]["points"][0].pop("ratio")), "field 'curves'"),
    "NaN curve": (
        _edit_json("acip.json", lambda c: c["curves"][0]["points"][0].update(perplexity=float("nan"))),
        "NaN in place of a number",
    ),
    "text curve": (
        _edit_json("acip.json", lambda c: c["curves"][0]["points"][0].update(perplexity="low")),
        "field 'curves'",
    ),
    "NaN scores": (_edit_tensors("scores.safetensors", _first(_nan)), "not finite"),
    "2-D scores": (_edit_tensors("scores.safetensors", _first(lambda t: t[None])), "scores.safetensors"),
    "other layers": (_edit_tensors("scores.safetensors", lambda t: t.update(other=torch.ones(3))), "different layers"),
    "NaN adapter": (_edit_tensors("adapter_model.safetensors", _first(_nan)), "not finite"),
    "adapter rank": (_edit_tensors("adapter_model.safetensors", _first(lambda t: t[:1], "A.weight")), "rank 2"),
    "missing adapter": (_edit_tensors("adapter_model.safetensors", lambda t: t.pop(next(iter(t)))), "no adapter for"),
    "rank 0": (_edit_json("adapter_config.json", lambda c: c.update(r=0)), "adapter_config.json"),
    "infinite scaling": (
        _edit_json("adapter_config.json", lambda c: c.update(lora_alpha=float("inf"))),
        "adapter_config.json",
    ),
    "config list": (lambda f: (f / "adapter_config.json").write_text("[]"), "adapter_config.json"),
    "folder as scores": (
        lambda f: ((f / "scores.safetensors").unlink(), (f / "scores.safetensors").mkdir()),
        "scores.safetensors",
    ),
    "flat adapter": (_edit_tensors("adapter_model.safetensors", _first(torch.flatten)), "rank 2"),
    "text rank": (_edit_json("adapter_config.json", lambda c: c.update(r="two")), "adapter_config.json"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_one_sentence_that_names_the_file(copy: Path, case: str) -> None:
    damage, named = DAMAGES[case]
    damage(copy)
    _resealed(copy)
    with pytest.raises(ArtifactError) as caught:
        read_artifact(copy)
    message = str(caught.value)
    assert named in message and str(copy) in message
    assert "\n" not in message and message.endswith(".")


RESULTS = {
    "completions.json": ({"completions": [{"prompt": "a", "new_tokens": 3, "texts": {"100": "b"}}]}, read_completions),
    "evaluation.json": (
        {
            "results": [
                {"task": "t", "metric": "m", "ratio": 0.5, "parameters": 9, "bytes": 36, "value": 0.1, "error": None,
                 "limit": 1}
            ]
        },
        read_evaluation,
    ),
    "comparison.json": ({"budget": {"x": 1e5}, "base_perplexity": {"c4": 3.5}, "results": []}, read_comparison),
    "peers.json": (asdict(made_up_peers()), read_peers),
    "ablation.json": ({"settings": {"x": 1e5}, "rows": {"one": {"0.50": 1.25}}}, read_ablation),
}  # fmt: skip
MADE = (
    "acip.json", "scores.safetensors", "basis.safetensors", "adapter_config.json", "adapter_model.safetensors",
    "history.safetensors", "README.md",
)  # fmt: skip


@pytest.mark.parametrize("name", [*MADE, *RESULTS])
def test_no_bit_of_any_file_can_flip(copy: Path, name: str) -> None:
    read = read_artifact
    if name in RESULTS:
        content, read = RESULTS[name]  # type: ignore[assignment]
        write_json(copy / name, content)
    read(copy)
    whole = (copy / name).read_bytes()
    source = random.Random(name)
    places = range(8 * len(whole)) if len(whole) < 400 else sorted(source.sample(range(8 * len(whole)), 400))
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        (copy / name).write_bytes(damaged)
        with pytest.raises(ArtifactError, match=re.escape(str(copy / name))):
            read(copy)


@pytest.mark.parametrize("name", [*MADE, *RESULTS])
@pytest.mark.parametrize("other", ["pipe", "device", "folder", "loop", "holes", "empty"])
def test_something_else_in_place_of_a_file(copy: Path, name: str, other: str) -> None:
    read = RESULTS[name][1] if name in RESULTS else read_artifact
    path = copy / name
    path.unlink(missing_ok=True)
    if other == "pipe":
        os.mkfifo(path)
    elif other == "device":
        path.symlink_to("/dev/zero")
    elif other == "loop":
        path.symlink_to(path)
    elif other == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 0 if other == "empty" else 10**10)
    with pytest.raises(ArtifactError, match=re.escape(name)):
        read(copy)


HOSTILE = ["[" * 200_000, '{"a":' * 200_000, "1" * 5000, "[1e999]", "NaN", '"\\ud800"', "[" + "9" * 400 + "]", "null"]


@pytest.mark.parametrize("name", ["acip.json", "adapter_config.json", *RESULTS])
@pytest.mark.parametrize("content", HOSTILE, ids=lambda text: text[:6])
def test_json_that_is_none_of_ours(copy: Path, name: str, content: str) -> None:
    (copy / name).write_text(content)
    _resealed(copy)
    with pytest.raises(ArtifactError, match=re.escape(name)):
        (RESULTS[name][1] if name in RESULTS else read_artifact)(copy)


WRONG = [None, True, -1, 10**400, "text", [], {}, [[]], 1e300]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: str(value)[:6])
def test_values_of_the_wrong_kind(copy: Path, wrong: object) -> None:
    """In place of any value at any depth: read, or refused by name, and nothing else."""
    for name in ("acip.json", "adapter_config.json", *RESULTS):
        if name in RESULTS:
            write_json(copy / name, RESULTS[name][0])
        read = RESULTS[name][1] if name in RESULTS else read_artifact
        whole = (copy / name).read_bytes()
        for change in _everywhere(json.loads(whole), wrong):
            (copy / name).write_text(json.dumps(change))
            _resealed(copy) if name == "adapter_config.json" else write_json(copy / name, change)
            with suppress(ArtifactError):
                read(copy)
        (copy / name).write_bytes(whole)
        _resealed(copy)


def _everywhere(content: dict, wrong: object) -> Iterator[dict]:
    """Copies of nested JSON, each with another value replaced."""
    content.pop("sha256", None)

    def walk(value: object) -> Iterator[tuple]:
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in list(pairs)[:12]:
            yield value, key, inner
            yield from walk(inner)

    for holder, key, inner in walk(content):
        holder[key] = wrong
        yield content
        holder[key] = inner


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32, torch.bool, torch.complex64])
@pytest.mark.parametrize(
    ("name", "ending"),
    [("scores.safetensors", ""), ("basis.safetensors", ".scale"), ("basis.safetensors", ".factor"),
     ("adapter_model.safetensors", ""), ("history.safetensors", "")],
)  # fmt: skip
def test_numbers_of_another_type(copy: Path, name: str, ending: str, dtype: torch.dtype) -> None:
    if (name, dtype) == ("history.safetensors", torch.int32):
        return  # places and samples of directions
    tensors, metadata = read_tensors(copy / name)
    key = next(key for key in tensors if key.endswith(ending))
    tensors[key] = tensors[key].float().to(dtype)
    save_file(tensors, copy / name, metadata or None)
    _resealed(copy)
    with pytest.raises(ArtifactError, match=name):
        read_artifact(copy)


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
    _resealed(copy)
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
