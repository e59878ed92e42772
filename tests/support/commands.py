"""The command line as a test types it."""

from __future__ import annotations

import re

import pytest

from acip_core import cli


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["acip", *arguments])
    monkeypatch.setattr(cli.console, "file", None)
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, re.sub(r"\x1b\[[0-9;]*m", "", captured.out + captured.err)
