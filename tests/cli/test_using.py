"""`acip generate`, and what every verb that opens a model says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from acip_core import AcipModel, cli
from acip_core.artifacts.writer import write_artifact
from tests.support.commands import run
from tests.support.tiny import tiny_artifact, tiny_base


def test_a_note_is_told_by_the_command_line(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, caplog
) -> None:
    other = replace(tiny_artifact(tiny_base(seed=5)), name="tiny [1]")
    write_artifact(other, tmp_path / "art")
    for verb in (("prepare", model), ("export", model, "out", "--size", "0.7")):
        caplog.clear()
        assert run(monkeypatch, capsys, *verb, "--artifact", str(tmp_path / "art"))[0] == 0
        assert caplog.text.count("close to, not exactly") == 1


def test_generate(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    base = replace(tiny_base(), name="tiny [1]")
    write_artifact(replace(tiny_artifact(base), name="tiny [1]"), tmp_path / "art")
    arguments = ("generate", model, "Hello there", "--artifact", str(tmp_path / "art"), "--max-new-tokens", "9")
    written = {}
    for size in ("1.0", "0.5"):
        monkeypatch.setattr(cli.console(), "file", None)
        monkeypatch.setattr("sys.argv", ["acip", *arguments, "--size", size])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
        written[size] = capsys.readouterr().out
    loaded = AcipModel.from_pretrained(model, artifact=tmp_path / "art", size=0.5)
    assert written["0.5"] == loaded.complete("Hello there", max_new_tokens=9) + "\n" != written["1.0"]
    monkeypatch.setattr("sys.argv", ["acip", *arguments, "--size", "0.5", "--repetition-penalty", "4"])
    with pytest.raises(SystemExit):
        cli.main()
    penalized = loaded.complete("Hello there", max_new_tokens=9, repetition_penalty=4)
    assert capsys.readouterr().out == penalized + "\n" != written["0.5"]
    code, output = run(monkeypatch, capsys, *arguments, "--size", "0.5", "--repetition-penalty", "0")
    assert code == 2 and "repetition penalty" in output
    code, output = run(monkeypatch, capsys, *arguments, "--size", "40")
    assert code == 2 and "above 0 and be 1 at most" in output
    code, output = run(monkeypatch, capsys, *arguments[:2], " ", *arguments[3:])
    assert code == 2 and "The prompt is empty" in output
