"""Places: absolute whatever the environment says, with a home or without, in a checkout or installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from acip_core import paths
from acip_core.artifact import default_artifact
from acip_core.paths import artifact_homes, artifacts_home, cache_dir

ROOT = Path(__file__).resolve().parent.parent


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


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("environment", [{}, {"HOME": "/"}, {"HOME": "/root"}, {"ACIP_CACHE": "~/c"}], ids=str)
def test_a_user_whom_nobody_knows(environment: dict[str, str], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); os.setgid(54321); os.setuid(54321)\n"
        "from acip_core.paths import cache_dir, artifacts_home\n"
        "for place in (cache_dir(), artifacts_home()):\n"
        "    assert place.is_absolute() and str(place).startswith(os.environ['TMPDIR']), place\n"
        "    place.mkdir(parents=True)\n"
    )
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True,
        env=kept | {"TMPDIR": str(tmp_path)} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "There is no home folder" in done.stderr and (tmp_path / "acip-54321").stat().st_mode & 0o777 == 0o700
