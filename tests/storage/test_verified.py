"""Files with their own digest: read as they were written, refused when any bit is another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acip_core.storage.atomic import read_unless_damaged
from acip_core.storage.verified import DAMAGE, read_json, read_tensors, save_tensors, write_json

TENSORS = {"b": torch.arange(6.0).view(2, 3).t(), "a": torch.tensor([1, 2, 3], dtype=torch.int8)}
CONTENT = {"text": "größe \\u00e9", "numbers": [1e5, 0.1, -3, None], "deep": {"sha256": "0" * 64}}


def test_written_and_read(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", CONTENT)
    assert read_json(tmp_path / "file.json") == CONTENT
    assert list(json.loads((tmp_path / "file.json").read_text())) == ["sha256", *CONTENT]
    save_tensors(TENSORS, tmp_path / "file", {"identity": '"sha256":"' + "0" * 64 + '"'})
    tensors, metadata = read_tensors(tmp_path / "file")
    assert metadata == {"identity": '"sha256":"' + "0" * 64 + '"'}
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert load_file(tmp_path / "file").keys() == TENSORS.keys(), "others can read it"


def test_files_without_a_digest_are_read(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text("[1, 2]")
    assert read_json(tmp_path / "file.json") == [1, 2]
    with pytest.raises(ValueError, match="SHA-256"):
        read_json(tmp_path / "file.json", sealed=True)
    save_file({"a": torch.ones(3)}, tmp_path / "file")
    assert read_tensors(tmp_path / "file")[1] == {}


@pytest.mark.parametrize("kind", ["json", "tensors"])
def test_no_bit_changes_what_is_kept(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "kept"
    read: Callable[[Path], object] = read_json
    if kind == "json":
        write_json(path, CONTENT)
    else:
        read = lambda path: {name: tensor.tolist() for name, tensor in read_tensors(path)[0].items()}  # noqa: E731
        save_tensors(TENSORS, path, {"step": "3"})
    whole, expected = path.read_bytes(), read(path)
    refused = 0
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        found = read_unless_damaged(path, read)
        refused += found is None
        if found is not None and kind == "json":  # the digest's own name is another: nothing else can be
            assert isinstance(found, dict) and found.items() >= CONTENT.items()
        elif found is not None:
            assert found == expected
    assert refused > 0.9 * 8 * len(whole) and "is damaged" in caplog.text
    assert read_unless_damaged(tmp_path / "none", read) is None


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for read in (read_json, read_tensors):
        with pytest.raises(DAMAGE):
            read(tmp_path / "pipe")
