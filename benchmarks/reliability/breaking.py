"""Ways to damage a file: what disks, downloads, editors and people do to it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_DEEP = 100_000  # levels of nesting
_ZEROS = 4096  # bytes, a block of a disk
Damage = Callable[[Path, random.Random], None]


def _flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _flip_early(path: Path, draw: random.Random) -> None:
    """Where headers are."""
    data = bytearray(path.read_bytes())
    data[draw.randrange(min(len(data), 256))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _cut(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(1, len(data))])


def _empty(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def _null(path: Path, _: random.Random) -> None:
    path.write_text("null")


def _zeros(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = draw.randrange(len(data))
    data[start : start + _ZEROS] = bytes(len(data[start : start + _ZEROS]))
    path.write_bytes(data)


def _noise(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(path.stat().st_size))


def _folder(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, _: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _no_text(path: Path, _: random.Random) -> None:
    path.write_bytes(b"\xff\xfe" + path.read_bytes())


def _deep(path: Path, draw: random.Random) -> None:
    start, end = draw.choice(("[]", ('{"a":', "}")))
    path.write_text(start * _DEEP + ("1" if len(start) > 1 else "") + end * _DEEP, encoding="utf-8")


def _deep_value(path: Path, draw: random.Random) -> None:
    """One value is deeply nested, the rest is right."""
    content = json.loads(path.read_text(encoding="utf-8"))
    holder, key = draw.choice(_leaves(content) or [([0], 0)])
    holder[key] = "@deep@"
    nested = "[" * _DEEP + "]" * _DEEP
    path.write_text(json.dumps(content).replace('"@deep@"', nested), encoding="utf-8")


def _put(value: str) -> Damage:
    """A leaf replaced by what JSON text says there."""

    def damage(path: Path, draw: random.Random) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        holder, key = draw.choice(_leaves(content) or [([0], 0)])
        holder[key] = "@here@"
        path.write_text(json.dumps(content).replace('"@here@"', value), encoding="utf-8")

    return damage


def _leaves(content: Any) -> list[tuple[Any, Any]]:
    """Places of all values that are no containers; of long containers the first few."""
    places: list[tuple[Any, Any]] = []
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(pairs)[:60]:
        if isinstance(value, dict | list) and value:
            places += _leaves(value)
        else:
            places.append((content, key))
    return places


def _lost_key(path: Path, draw: random.Random) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and content:
        del content[draw.choice(sorted(content))]
    else:
        content = content[1:] if isinstance(content, list) else None
    path.write_text(json.dumps(content), encoding="utf-8")


def _tensors(change: Callable[[dict[str, torch.Tensor], str, random.Random], None]) -> Damage:
    """A whole safetensors file, of which one tensor is another."""

    def damage(path: Path, draw: random.Random) -> None:
        with safe_open(path, "pt") as file:
            facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        change(tensors, draw.choice(sorted(tensors)), draw)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, facts)

    return damage


def _not_a_number(tensors: dict[str, torch.Tensor], name: str, draw: random.Random) -> None:
    if tensors[name].is_floating_point() and tensors[name].numel():
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[draw.randrange(tensors[name].numel())] = draw.choice((float("nan"), float("inf")))
    else:
        tensors[name] = torch.full_like(tensors[name], float("nan"), dtype=torch.float32)


def _eight_bits(tensors: dict[str, torch.Tensor], name: str, _: random.Random) -> None:
    tensors[name] = tensors[name].float().to(torch.float8_e4m3fn)


def _integers(tensors: dict[str, torch.Tensor], name: str, _: random.Random) -> None:
    tensors[name] = tensors[name].double().round().long()


def _shorter(tensors: dict[str, torch.Tensor], name: str, _: random.Random) -> None:
    tensors[name] = tensors[name][:-1] if tensors[name].dim() else tensors[name][None]


def _renamed(tensors: dict[str, torch.Tensor], name: str, _: random.Random) -> None:
    tensors[f"_orig_mod.{name}"] = tensors.pop(name)


def _added(tensors: dict[str, torch.Tensor], _: str, __: random.Random) -> None:
    tensors["what.nobody.knows"] = torch.ones(3)


def _lost(tensors: dict[str, torch.Tensor], name: str, _: random.Random) -> None:
    del tensors[name]


_ANY: dict[str, Damage] = {
    "a bit flipped": _flip,
    "a bit of the beginning flipped": _flip_early,
    "cut off": _cut,
    "empty": _empty,
    "missing": lambda path, _: path.unlink(),
    "a block of zeros": _zeros,
    "noise": _noise,
    "a folder in its place": _folder,
    "a pipe in its place": _pipe,
    "a link to itself": _loop,
}
_JSON: dict[str, Damage] = {
    "deeply nested": _deep,
    "a deeply nested value": _deep_value,
    "a huge number": _put("1" + "0" * 400),
    "a number beyond floats": _put("1e400"),
    "not a number": _put("NaN"),
    "a negative number": _put("-3"),
    "a billion": _put("1000000000"),
    "a list in place of a value": _put("[[]]"),
    "an object in place of a value": _put('{"a": {}}'),
    "null in place of a value": _put("null"),
    "a text in place of a value": _put('"word"'),
    "a key lost": _lost_key,
    "null alone": _null,
    "no UTF-8": _no_text,
}
_SAFETENSORS: dict[str, Damage] = {
    "NaN or infinity": _tensors(_not_a_number),
    "a tensor of eight bits": _tensors(_eight_bits),
    "a tensor of integers": _tensors(_integers),
    "a shorter tensor": _tensors(_shorter),
    "a renamed tensor": _tensors(_renamed),
    "a tensor too many": _tensors(_added),
    "a tensor lost": _tensors(_lost),
}
DAMAGES = _ANY | _JSON | _SAFETENSORS


def possible(path: Path) -> list[str]:
    """Names of the damages that a file can take."""
    special = {".json": _JSON, ".safetensors": _SAFETENSORS}.get(path.suffix, {})
    return [*_ANY, *special]
