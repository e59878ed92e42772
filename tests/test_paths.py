"""Places: absolute whatever the environment says, with a home or without, in a checkout or installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from acip_core import paths
from acip_core.artifacts.artifact import default_artifact
from acip_core.paths import artifact_homes, artifacts_home, cache_dir, exists_here


def test_a_name_that_no_path_can_have_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    assert exists_here("~/file") and exists_here(tmp_path)
    for name in ("x" * 300, "x" * 5000, "~nobody-of-this-name/x", "a\0b", "x" * 300 + "/b"):
        assert not exists_here(name)


def test_the_cache_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    for value, place in (("~/mine", "mine"), ("here/deep", "here/deep"), (str(tmp_path / "a" / ".." / "b"), "b")):
        monkeypatch.setenv("ACIP_CACHE", value)
        assert cache_dir() == tmp_path / place
    for value in ("", "  "):
        monkeypatch.setenv("ACIP_CACHE", value)
        assert cache_dir() == tmp_path / ".cache" / "acip" and not cache_dir().exists()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("checkout", "data", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkout" / "pyproject.toml").touch()
    monkeypatch.setattr(paths, "_ROOT", tmp_path / "checkout")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "checkout"


def test_artifacts_go_beside_the_package_only_in_a_checkout_of_ones_own(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert artifacts_home() == checkout / "precomputed"
    monkeypatch.setattr(paths.os, "access", lambda path, mode: not Path(path).is_relative_to(checkout))
    assert artifacts_home() == checkout.parent / "data" / "acip" / "precomputed"
    monkeypatch.undo()
    monkeypatch.setattr(paths, "_ROOT", checkout)
    (checkout / "pyproject.toml").unlink()
    assert not artifacts_home().is_relative_to(checkout)


def test_an_artifact_is_found_wherever_it_was_written(checkout: Path) -> None:
    assert default_artifact("x") == checkout / "precomputed" / "x"
    for home in reversed(artifact_homes()):  # what comes first is made last
        (home / "x").mkdir(parents=True)
        (home / "x" / "acip.json").touch()
        assert default_artifact("x") == home / "x"
    assert artifact_homes()[0] == Path.cwd() / "precomputed" and len(artifact_homes()) == 3


@pytest.mark.parametrize("environment", [{}, {"HOME": "/"}, {"HOME": "/nonexistent"}, {"ACIP_CACHE": "~/c"}], ids=str)
def test_a_user_whom_nobody_knows(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("HOME", "ACIP_CACHE", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(paths.os, "access", lambda path, mode: Path(path).is_relative_to(tmp_path))
    paths._homeless.cache_clear()
    for place in (cache_dir(), artifacts_home(), cache_dir()):
        assert place.is_absolute() and place.is_relative_to(tmp_path)
        place.mkdir(parents=True, exist_ok=True)
    assert caplog.text.count("There is no home folder") == 2
    (own,) = tmp_path.iterdir()
    assert own.stat().st_mode & 0o777 == 0o700
    paths._homeless.cache_clear()
    monkeypatch.setattr(paths.os, "getuid", lambda: os.stat(tmp_path).st_uid + 1, raising=False)
    (tmp_path / f"acip-{paths.os.getuid()}").mkdir()  # made by somebody else
    assert not cache_dir().is_relative_to(tmp_path / f"acip-{paths.os.getuid()}")
    paths._homeless.cache_clear()
