"""A folder is replaced whole: writers killed at any step, several at once, links, mount points, homes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from acip_core.storage import atomic as module
from acip_core.storage.atomic import (
    atomic_path,
    check_writable,
    entries,
    remove_leftovers,
)


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
