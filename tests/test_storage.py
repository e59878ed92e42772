"""Writing: whole or not at all, whatever interrupts it, and readable by whoever may read a new file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from acip_core import storage as module
from acip_core.errors import StorageError
from acip_core.storage import atomic_path, cache_dir, remove_leftovers
from tests.conftest import full_disk


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
    replace = os.replace

    def refused(source: Path, destination: Path) -> None:
        if destination == target and "replaced" not in Path(source).name:
            raise PermissionError(13, "Permission denied")
        replace(source, destination)

    monkeypatch.setattr(module.os, "replace", refused)
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


def test_the_cache_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("ACIP_CACHE", "~/mine")
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("ACIP_CACHE")
    assert cache_dir().is_relative_to(tmp_path) and not cache_dir().exists()


def test_leftovers_of_killed_writers_go_after_a_day(tmp_path: Path) -> None:
    for name, age in ((".old.x", 90_000), (".new.x", 10), ("kept", 90_000)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, times=(os.path.getmtime(tmp_path) - age,) * 2)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.x", "kept"]
