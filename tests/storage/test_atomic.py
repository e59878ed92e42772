"""Writing: whole or not at all, whatever interrupts it, and readable by whoever may read a new file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from acip_core.errors import StorageError
from acip_core.storage import atomic as module
from acip_core.storage.atomic import (
    DIGESTS,
    atomic_path,
    check_digests,
    check_writable,
    write_digests,
)
from tests.support.faults import full_disk


def put(target: Path, content: str) -> None:
    """Write `content` as a file, or into a folder when the target's name says so."""
    with atomic_path(target) as temporary:
        if target.name == "folder":
            temporary.mkdir()
            (temporary / content).write_text(content)
        else:
            temporary.write_text(content)


def content(target: Path) -> str:
    if target.is_file():
        return target.read_text()
    (file,) = target.iterdir()
    return file.read_text()


@pytest.fixture(params=["file", "folder"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "parent" / request.param


def test_replaced_whole(target: Path) -> None:
    for text in ("old", "new"):
        put(target, text)
        assert content(target) == text
        assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (OSError(28, "No space left on device"), StorageError),
        (SafetensorError("I/O error: No space left on device"), StorageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("other"), ValueError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
@pytest.mark.parametrize("existing", [True, False], ids=["replaced", "new"])
def test_a_failure_leaves_what_was_there(
    target: Path, existing: bool, raised: BaseException, seen: type[BaseException]
) -> None:
    if existing:
        put(target, "old")
    with pytest.raises(seen) as caught, atomic_path(target) as temporary:
        temporary.mkdir()
        (temporary / "half").touch()
        raise raised
    if seen is StorageError:
        assert str(target) in str(caught.value) and "No space left" in str(caught.value)
    assert list(target.parent.iterdir()) == ([target] if existing else [])
    assert not existing or content(target) == "old"


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    put(target, "old")

    def refused(*_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "_exchange", lambda *_: False)
    for name in ("replace", "rename"):
        monkeypatch.setattr(module.os, name, refused)
    with pytest.raises(StorageError, match="Permission denied"):
        put(target, "new")
    assert content(target) == "old" and list(tmp_path.iterdir()) == [target]


def test_a_disk_that_is_really_full(target: Path) -> None:
    put(target, "old")
    tensors = {"weight": torch.zeros(10_000)}
    with pytest.raises(StorageError, match="File too large"), full_disk(), atomic_path(target) as temporary:
        save_file(tensors, temporary)
    with pytest.raises(StorageError, match="File too large"), full_disk():
        put(target, "new" * 10_000) if target.name == "file" else put(target.parent / "file", "new" * 10_000)
    assert content(target) == "old" and list(target.parent.iterdir()) == [target]


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "parent").touch()
    with pytest.raises(StorageError, match=str(tmp_path / "parent" / "file")):
        put(tmp_path / "parent" / "file", "new")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_have_the_permissions_of_any_new_file(target: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_path(target) as temporary:
            if target.name == "folder":
                temporary.mkdir()
            file = temporary / "weights" if target.name == "folder" else temporary
            save_file({"weight": torch.zeros(3)}, file)
    finally:
        os.umask(before)
    written = target / "weights" if target.name == "folder" else target
    assert written.stat().st_mode & 0o777 == mode


def test_what_cannot_be_written_is_known_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "deep" / "folder", Path("/proc/nowhere/folder")):
        with pytest.raises(StorageError, match=f"Cannot write {wrong}"):
            check_writable(wrong)
    check_writable(tmp_path / "far" / "away" / "folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_full_disk_of_the_tokenizers_library(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No space left"), atomic_path(tmp_path / "file"):
        raise Exception("No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda folder: (folder / "b" / "two").write_text("three"), "b/two differs"),
        (lambda folder: (folder / "one").unlink(), "one is missing"),
        (lambda folder: (folder / "b" / "more").touch(), "b/more was added"),
        (lambda folder: (folder / DIGESTS).unlink(), "digests.json is missing"),
        (lambda folder: (folder / DIGESTS).write_text("[" * 100_000), "digests.json is missing or damaged"),
        (lambda folder: ((folder / "one").unlink(), os.mkfifo(folder / "one")), "not a regular file"),
    ],
)
def test_digests_of_a_folder(tmp_path: Path, change: Callable[[Path], object], named: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "one").write_text("one")
    (tmp_path / "b" / "two").write_text("two")
    write_digests(tmp_path)
    check_digests(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=named):
        check_digests(tmp_path)
