"""Native code: compiled once, made again when it is damaged, done without where nothing makes it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from acip_core.generation.native_code import native_code
from tests.support.compilers import a_compiler

compiles = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no compiler on this machine")


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty cache folder, nothing remembered."""
    monkeypatch.setenv("ACIP_CACHE", str(tmp_path / "cache"))
    native_code.cache_clear()
    yield
    native_code.cache_clear()


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that leaves out what makes the code fast and the compiling slow."""
    monkeypatch.setenv("CC", a_compiler(tmp_path, 'exec cc "$@" -O0'))


def made(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.so"))


@compiles
@pytest.mark.usefixtures("quick")
def test_compiled_once(tmp_path: Path) -> None:
    assert native_code() is not None
    (first,) = made(tmp_path)
    before = first.stat().st_mtime_ns
    native_code.cache_clear()
    assert native_code() is not None
    assert made(tmp_path) == [first] and first.stat().st_mtime_ns == before


@compiles
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("damage", ["empty", "half", "flipped"])
def test_a_damaged_library_is_made_again(damage: str, tmp_path: Path) -> None:
    native_code()
    (path,) = made(tmp_path)
    whole = path.read_bytes()
    broken = {"empty": b"", "half": whole[: len(whole) // 2], "flipped": bytes([whole[0] ^ 1]) + whole[1:]}
    path.unlink()  # a file that is loaded must not be written to
    path.write_bytes(broken[damage])
    native_code.cache_clear()
    assert native_code() is not None
    assert any(other.read_bytes() == whole for other in made(tmp_path))


@pytest.mark.parametrize("script", ["echo no such option >&2; exit 1", "exit 0", "kill -9 $$"])
def test_a_compiler_that_makes_nothing_is_named(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", a_compiler(tmp_path, script))
    with caplog.at_level(logging.WARNING):
        assert native_code() is None
    assert "without native code" in caplog.text and ("no such option" in caplog.text) == ("option" in script)
    assert not made(tmp_path) and not list((tmp_path / "cache" / "native").iterdir())


def test_no_compiler_is_no_fault(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native_code() is None and not caplog.records


@compiles
def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACIP_NATIVE", "0")
    assert native_code() is None


@compiles
def test_a_cache_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert native_code() is None
    assert "without native code" in caplog.text
