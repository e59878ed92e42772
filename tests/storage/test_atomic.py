"""Writing: whole or not at all, whatever interrupts it, and readable by whoever may read a new file."""

from __future__ import annotations

import os
import shutil
import subprocess
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
    entries,
    remove_leftovers,
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


def changed(folder: Path, version: str) -> None:
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for name in ("a", "b", f"only {version}"):
            (temporary / name).write_text(version)


def versions(folder: Path) -> set[str]:
    """Of the files of a folder, whose names have to be those of one version."""
    found = {name: (folder / name).read_text() for name in entries(folder)}
    assert set(found) == {"a", "b", f"only {found['a']}"}
    return set(found.values())


OPERATIONS = ("replace", "rename", "unlink", "rmdir", "fsync", "mkdir", "listdir")


def killed(folder: Path, at: int) -> bool:
    """Replace a folder in a child that is killed at its `at`-th file operation; whether it got so far."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(operation: Callable[..., object]) -> Callable[..., object]:
            def run(*arguments: object, **options: object) -> object:
                nonlocal count
                count += 1
                if count == at:
                    os._exit(1)
                return operation(*arguments, **options)

            return run

        for name in OPERATIONS:
            setattr(os, name, counted(getattr(os, name)))
        module._exchange = counted(module._exchange)  # type: ignore[assignment]
        changed(folder, "new")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.parametrize("way", ["exchanged", "moved", "inside"])
def test_killed_at_any_step_either_version_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way != "exchanged":
        monkeypatch.setattr(module, "_exchange", lambda *_: False)
    if way == "inside":
        monkeypatch.setattr(module.os.path, "ismount", lambda path: Path(path) == folder)
    seen, at, alive = set(), 0, True
    while alive:
        at += 1
        folder = tmp_path / str(at) / "folder"
        changed(folder, "old")
        alive = killed(folder, at)
        (version,) = versions(folder)
        seen.add(version)
        for left in folder.rglob(f"*{module._ENDING}"):
            os.utime(left, (0, 0))
        for left in folder.parent.glob(f".*{module._ENDING}"):
            os.utime(left, (0, 0))
        changed(folder, "next")
        assert versions(folder) == {"next"} and list(folder.parent.iterdir()) == [folder]
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert at > 8 and seen == {"old", "new"}


def test_several_writers_at_once(tmp_path: Path) -> None:
    """All of them end well, whoever is last, and a reader finds a whole folder at any time."""
    folder, children = tmp_path / "folder", []
    for version in "123":
        if (child := os.fork()) == 0:
            try:
                for _ in range(30):
                    changed(folder, version)
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    (version,) = versions(folder)
    assert version in "123" and list(tmp_path.iterdir()) == [folder]


def test_a_link_stays_and_its_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name, place in (("link", "elsewhere"), ("dangling", "new")):
        (tmp_path / name).symlink_to(tmp_path / place)
        for version in ("old", "new"):
            changed(tmp_path / name, version)
            assert (tmp_path / name).is_symlink() and versions(tmp_path / place) == {version}


def test_the_working_directory_stays_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for version in ("old", "new"):
        changed(Path("."), version)
        assert set(os.listdir(".")) == {"a", "b", f"only {version}"}
    assert list(tmp_path.iterdir()) == [tmp_path / "here"]


def test_a_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one where that is allowed."""
    place = tmp_path / "mount"
    place.mkdir()
    mounted = shutil.which("mount") and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True
    ).returncode  # fmt: skip
    if not mounted:
        monkeypatch.setattr(module.os.path, "ismount", lambda path: Path(path) == place)
    try:
        identity = place.stat().st_ino
        for version in ("old", "new"):
            check_writable(place)
            changed(place, version)
            assert versions(place) == {version} and place.stat().st_ino == identity
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def test_a_home_folder_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    changed(Path("~/deep/folder"), "old")
    assert versions(tmp_path / "home" / "deep" / "folder") == {"old"} and os.listdir() == ["home"]


def test_what_cannot_be_written_is_known_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "deep" / "folder", Path("/proc/nowhere/folder")):
        with pytest.raises(StorageError, match=f"Cannot write {wrong}"):
            check_writable(wrong)
    check_writable(tmp_path / "far" / "away" / "folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_leftovers_go_unless_their_writer_lives(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (alive,) = tmp_path.iterdir()
        for name in (f".old.x{module._ENDING}", f".new.x{module._ENDING}", ".config", "kept"):
            (tmp_path / name).mkdir()
        for path in tmp_path.iterdir():
            if ".new." not in path.name:
                os.utime(path, (0, 0))
        remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {
            alive.name, f".new.x{module._ENDING}", ".config", "kept"
        }  # fmt: skip
    assert (tmp_path / "folder").is_dir()


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
