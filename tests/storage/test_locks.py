"""Locks: one run at a time, and a wait for whoever makes a part of the cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from acip_core.errors import StorageError
from acip_core.progress import Progress, finish
from acip_core.storage.locks import only_run, turn


def test_only_one_run_at_a_time(cache: Path, tmp_path: Path) -> None:
    with only_run(tmp_path / "out"):
        with pytest.raises(StorageError, match="Another run is writing"), only_run(tmp_path / "out"):
            pass
        with only_run(tmp_path / "other"):
            pass


def test_a_folder_whose_name_is_no_text_can_be_locked(cache: Path, tmp_path: Path) -> None:
    with only_run(tmp_path / os.fsdecode(b"out\xff")), only_run(tmp_path / "out"):
        pass


def test_a_run_leaves_its_own_errors_as_they_are(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), only_run(tmp_path / "out"):
        (tmp_path / "none").read_text()
    with only_run(tmp_path / "out"):
        pass


def test_a_turn_comes_when_the_one_before_ends(cache: Path) -> None:
    place, waiting = cache / "part", Progress("waiting", 0, 1)
    steps: list[Progress] = []
    with finish(turn(place, lambda: waiting)) as waited:
        assert not waited
        second = turn(place, lambda: waiting)
        assert next(second) == waiting
    with finish(second, steps.append) as waited:
        assert waited and not steps


def test_a_cache_that_cannot_be_locked_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ACIP_CACHE", str(tmp_path / "file" / "cache"))
    with finish(turn(tmp_path / "part", lambda: Progress("waiting", 0, 1))) as waited:
        assert not waited


def test_a_link_to_itself_can_be_made_anew(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with finish(turn(tmp_path / "loop", lambda: Progress("waiting", 0, 1))) as waited:
        assert not waited
