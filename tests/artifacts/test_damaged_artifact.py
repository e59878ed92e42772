"""Damaged artifacts: whatever happens to a file, it is refused by file and field, in one sentence."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acip_core.artifacts.reader import read_artifact
from acip_core.errors import ArtifactError
from acip_core.storage.verified import read_tensors, write_json
from tests.support.results import RESULTS, resealed

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
    resealed(copy)
    with pytest.raises(ArtifactError) as caught:
        read_artifact(copy)
    message = str(caught.value)
    assert named in message and str(copy) in message
    assert "\n" not in message and message.endswith(".")


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
    resealed(copy)
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
            resealed(copy) if name == "adapter_config.json" else write_json(copy / name, change)
            with suppress(ArtifactError):
                read(copy)
        (copy / name).write_bytes(whole)
        resealed(copy)


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
    resealed(copy)
    with pytest.raises(ArtifactError, match=name):
        read_artifact(copy)
