"""Tensors in files: what was written, wherever their pages are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from acip_core.storage.mapped import give_pages_back, mapped_tensors, moved_to_file

TENSORS = {
    "float": torch.randn(5, 7),
    "half": torch.randn(3).half(),
    "rounded": torch.randn(4, 4).bfloat16(),
    "bytes": torch.arange(-3, 4, dtype=torch.int8),
    "signs": torch.tensor([[True], [False]]),
    "one": torch.tensor(2.5),
    "none": torch.ones(0, 3),
}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


def test_a_file_is_read_as_safetensors_reads_it(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "file", {"more": "text"})
    found = mapped_tensors(tmp_path / "file")
    assert same(found, TENSORS)
    (tmp_path / "file").unlink()
    give_pages_back()
    assert same(found, TENSORS)


def test_tensors_move_to_a_file_that_nobody_sees(tmp_path: Path) -> None:
    shapes = {**TENSORS, "turned": torch.randn(6, 5).t()}
    found = moved_to_file(shapes, tmp_path / "new")
    assert same(found, shapes) and not list((tmp_path / "new").iterdir())
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values() if tensor.numel())
    give_pages_back()
    assert same(found, shapes)


def test_no_place_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        moved_to_file(TENSORS, tmp_path / "file")
