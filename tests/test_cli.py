"""The command line as people type it: verbs, exit codes, one sentence for a mistake."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from acip_core import cli, paths
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from acip_core.pipelines import precompute
from acip_core.progress import Progress
from tests.support.commands import run
from tests.support.faults import full_disk
from tests.support.tiny import tiny_artifact, tiny_base


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts are looked for below the working directory, too, which is not to be this repository."""
    monkeypatch.chdir(tmp_path)


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
        (("precompute", "--model", "/nowhere/[/red] [b]model.gguf"), "/nowhere/[/red] [b]model.gguf"),
        (("precompute", "--out", __file__), __file__),
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
    assert code == 2
    (sentence,) = [line for line in output.splitlines() if line.startswith("Error:")]
    assert named in sentence and sentence.endswith(".")
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "arguments",
    [
        ("precompute", "--steps", "0"),
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
    assert code in (0, 2) and "precompute" in output and "prepare" in output


@pytest.fixture
def model(tmp_path: Path, cache: Path) -> str:
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny [1]")
    base.tokenizer.save_pretrained(tmp_path / "tiny [1]")
    return str(tmp_path / "tiny [1]")


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text [b].txt"
    file.write_text("\n\n".join(f"Line {i} says {i * i} and then {i**5}, no more." * 2 for i in range(700)))
    return str(file)


def test_precompute_and_prepare(
    model: str, text: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    arguments = ("precompute", "--model", model, "--quick", "--corpus", text, "--out", str(out))
    code, output = run(monkeypatch, capsys, *arguments)
    assert code == 0, output
    assert f"The artifact is in {out}." in output
    assert f"measuring fisher-iterated, {text} 48/48" in output  # nothing of a name is taken for colours
    assert re.search(r"scoring (\d+)/\1", output) and "second moments 1/12" in output
    (curve,) = read_artifact(out).curves
    assert curve.corpus == text and [round(p.ratio, 1) for p in curve.points] == [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    code, output = run(monkeypatch, capsys, "prepare", "--model", model, "--artifact", str(out))
    assert code == 0 and "tiny [1] is ready." in output
    assert list((cache / "factors").glob("*.safetensors"))


def test_two_models_in_folders_of_one_name(
    text: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(paths, "_ROOT", tmp_path / "checkout")
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "pyproject.toml").touch()
    for seed, parent in enumerate(("one", "two")):
        base = tiny_base(seed=seed)
        base.model.save_pretrained(tmp_path / parent / "last")
        base.tokenizer.save_pretrained(tmp_path / parent / "last")
    home = tmp_path / "checkout" / "precomputed" / "last"

    def made(parent: str, *more: str) -> tuple[int, str]:
        arguments = ("precompute", "--model", f"{parent}/last", "--quick", "--corpus", text, *more)
        return run(monkeypatch, capsys, *arguments)

    code, output = made("one")
    assert code == 0 and f"The artifact is in {home}." in output
    first = read_artifact(home).fingerprint
    assert made("one", "--include", "self_attn")[0] == 0, "the same weights, other layers"
    assert made("one")[0] == 0 and read_artifact(home).fingerprint == first
    code, output = made("two")
    assert code == 2 and f"{home} holds the artifact of other weights (last); name another" in output
    assert "--out" in output and "--replace" in output and "scoring" not in output
    assert read_artifact(home).fingerprint == first
    code, output = run(monkeypatch, capsys, "export", "two/last", "out", "--size", "0.6")
    assert code == 2 and "by its name alone" in output and not Path("out").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    named = f"--artifact=~/{home.relative_to(tmp_path)}"
    for verb in (("export", "two/last", "~/out", "--size", "0.6"), ("prepare", "--model", "two/last")):
        code, output = run(monkeypatch, capsys, *verb, named)
        assert code == 0, output
    assert (tmp_path / "out" / "config.json").is_file() and not (tmp_path / "~").exists()
    for verb in (
        ("complete", "--model", "two/last"), ("quantize", "two/last"), ("compare", "--model", "two/last"),
        ("ablate", "--model", "two/last"), ("evaluate", "two/last", "--tasks", "c4"),
    ):  # fmt: skip
        code, output = run(monkeypatch, capsys, *verb, named)
        assert code == 2 and "results of these weights do not belong into it" in output, output
    assert not (home / "comparison.json").exists()
    assert made("two", "--replace")[0] == 0 and read_artifact(home).fingerprint != first


def test_a_note_is_told_by_the_command_line(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, caplog
) -> None:
    other = replace(tiny_artifact(tiny_base(seed=5)), name="tiny [1]")
    write_artifact(other, tmp_path / "art")
    for verb in (("prepare", "--model", model), ("export", model, "out", "--size", "0.7")):
        caplog.clear()
        assert run(monkeypatch, capsys, *verb, "--artifact", str(tmp_path / "art"))[0] == 0
        assert caplog.text.count("close to, not exactly") == 1


def test_renew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    write_artifact(tiny_artifact(tiny_base()), tmp_path / "art")
    (tmp_path / "art" / "README.md").write_text("# Mine")
    code, output = run(monkeypatch, capsys, "renew", "art")
    assert code == 0 and "art are those of its files" in output
    read_artifact(tmp_path / "art")
    code, output = run(monkeypatch, capsys, "renew", "none")
    assert code == 2 and "No artifact at none" in output


def test_prepare_without_an_artifact(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = run(monkeypatch, capsys, "prepare", "--model", model, "--artifact", str(tmp_path / "none"))
    assert code == 2 and f"Error: No artifact at {tmp_path / 'none'};" in output and "Traceback" not in output


def test_a_full_disk(
    model: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("precompute", "--model", model, "--quick", "--corpus", text, "--out", str(tmp_path / "out"))
    with full_disk():
        code, output = run(monkeypatch, capsys, *arguments)
    assert code == 2 and "Error: Cannot write" in output and "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_ctrl_c_for_real(model: str, text: str, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "acip_core", "precompute", "--model", model, "--quick", "--corpus", text]
    environment = os.environ | {
        "COLUMNS": "300",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(cli.__file__).parents[1]),
    }
    with subprocess.Popen(
        [*command, "--out", str(out)], stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        shown = ""
        while "factorizing" not in shown:
            line = process.stderr.readline()
            assert line, shown
            shown += line
        process.send_signal(signal.SIGINT)
        shown += process.stderr.read()
    assert process.returncode == 130, shown
    assert shown.rstrip().endswith("the same command continues.") and "Traceback" not in shown
    assert not out.exists() and sorted(p.name for p in tmp_path.iterdir()) == ["cache", "text [b].txt", "tiny [1]"]


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object):
        yield Progress("scoring", 1, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(precompute, "precompute", interrupted)
    code, output = run(monkeypatch, capsys, "precompute")
    assert code == 130
    assert "scoring 1/2" in output and "the same command continues" in output and "Traceback" not in output
