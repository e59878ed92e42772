"""The program as a whole: help, exit codes, one sentence for a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from acip_core.pipelines import precompute
from acip_core.progress import Progress
from tests.support.commands import run


def test_help_names_every_option(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = run(monkeypatch, capsys, "precompute", "--help")
    assert code == 0
    for option in ("MODEL", "--out", "--quick", "--steps", "--corpus", "--seed"):
        assert option in output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("precompute", "nobody/nothing"), "nobody/nothing"),
        (("precompute", "/nowhere/model.gguf"), "/nowhere/model.gguf"),
        (("precompute", "--corpus", "/nowhere/text.txt"), "/nowhere/text.txt"),
        (("precompute", "/nowhere/[/red] [b]model.gguf"), "/nowhere/[/red] [b]model.gguf"),
        (("precompute", "--out", __file__), __file__),
        (("precompute", "--out", "x" * 300), "File name too long"),
        (("finetune", "nobody/nothing", "--out", "x" * 300, "--size", "0.5"), "File name too long"),
        (("export", "smollm2-135m-instruct", "x" * 300), "File name too long"),
        (("report", "x" * 300), "No artifact at"),
        (("prepare", "nobody/nothing"), "nobody/nothing"),
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
    assert code == 2
    (sentence,) = [line for line in output.splitlines() if line.startswith("Error:")]
    assert named in sentence and sentence.endswith(".")
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "arguments",
    [
        ("precompute", "--steps", "0"),
        ("precompute", "--block-steps", "-1"),
        ("precompute", "--block-steps", "5", "--quick"),
        ("precompute", "--block-steps", "5", "--scorer", "fisher"),
        ("precompute", "--block-steps", "5", "--steps", "0", "--scorer", "acip"),
        ("precompute", "--steps", "many"),
        ("precompute", "--seed", "-1"),
        ("precompute", "--seed", "99999999999999999999"),
        ("precompute", "--steps", "5", "--quick"),
        ("precompute", "--seed", "5", "--quick"),
        ("precompute", "--out"),
        ("prepare", "--steps", "1"),
        ("fly",),
    ],
)
def test_options_that_do_not_exist_or_fit(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precompute, "precompute", lambda *_: pytest.fail("it ran"))
    code, output = run(monkeypatch, capsys, *arguments)
    assert code == 2 and "Traceback" not in output and arguments[:2][-1] in output


def test_no_verb_shows_the_verbs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = run(monkeypatch, capsys)
    assert code in (0, 2) and all(verb in output for verb in ("generate", "app", "precompute", "measure"))


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object):
        yield Progress("scoring", 1, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(precompute, "precompute", interrupted)
    code, output = run(monkeypatch, capsys, "precompute")
    assert code == 130
    assert "scoring 1/2" in output and "the same command continues" in output and "Traceback" not in output
