"""The command line as people type it: verbs, exit codes, one sentence for a mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from acip_core import cli, precompute
from acip_core.artifact import write_artifact
from acip_core.progress import Progress
from tests.tiny import tiny_artifact, tiny_base


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


def test_help_names_every_option(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = run(monkeypatch, capsys, "precompute", "--help")
    assert code == 0
    for option in ("--model", "--out", "--quick", "--steps", "--corpus", "--seed"):
        assert option in output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("precompute", "--model", "nobody/nothing"), "nobody/nothing"),
        (("precompute", "--model", "/nowhere/model.gguf"), "/nowhere/model.gguf"),
        (("precompute", "--corpus", "/nowhere/text.txt"), "/nowhere/text.txt"),
        (("prepare", "--model", "nobody/nothing"), "nobody/nothing"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    default_gguf: Path,
) -> None:
    code, output = run(monkeypatch, capsys, *arguments)
    assert code == 1
    (sentence,) = [line for line in output.splitlines() if line.startswith("Error:")]
    assert named in sentence and sentence.endswith(".")
    assert "Traceback" not in output


@pytest.mark.parametrize("arguments", [("precompute", "--steps", "0"), ("prepare", "--steps", "1"), ("fly",)])
def test_options_that_do_not_exist_or_fit(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = run(monkeypatch, capsys, *arguments)
    assert code == 2 and "Traceback" not in output and arguments[:2][-1] in output


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object):
        yield Progress("scoring", 1, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(precompute, "precompute", interrupted)
    code, output = run(monkeypatch, capsys, "precompute")
    assert code == 130
    assert "scoring 1/2" in output and "the same command continues" in output and "Traceback" not in output


def test_prepare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path, tmp_path: Path
) -> None:
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny")
    base.tokenizer.save_pretrained(tmp_path / "tiny")
    write_artifact(tiny_artifact(base), tmp_path / "artifact")
    arguments = ("prepare", "--model", str(tmp_path / "tiny"), "--artifact", str(tmp_path / "artifact"))
    code, output = run(monkeypatch, capsys, *arguments)
    assert code == 0 and "tiny is ready" in output
    assert list((cache / "factors").glob("*.safetensors"))
