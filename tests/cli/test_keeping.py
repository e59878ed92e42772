"""`acip report`, `acip renew`."""

from __future__ import annotations

from pathlib import Path

import pytest

from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from tests.support.commands import run
from tests.support.tiny import tiny_artifact, tiny_base


def test_a_report_is_found_by_a_name_with_a_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_artifact(tiny_artifact(tiny_base()), tmp_path / "precomputed" / "model")
    monkeypatch.chdir(tmp_path)
    code, output = run(monkeypatch, capsys, "report", "org/Model@v1.0")
    assert code == 0 and (tmp_path / "precomputed" / "model" / "report.html").is_file(), output


def test_renew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    write_artifact(tiny_artifact(tiny_base()), tmp_path / "art")
    (tmp_path / "art" / "README.md").write_text("# Mine")
    code, output = run(monkeypatch, capsys, "renew", "art")
    assert code == 0 and "art are those of its files" in output
    read_artifact(tmp_path / "art")
    code, output = run(monkeypatch, capsys, "renew", "none")
    assert code == 2 and "No artifact at none" in output
