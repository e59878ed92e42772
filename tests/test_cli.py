"""The command line as people type it: verbs, exit codes, one sentence for a mistake."""

from __future__ import annotations

import functools
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from acip_core import AcipModel, cli, paths
from acip_core.artifacts.coding import CODING
from acip_core.artifacts.completions import read_completions, write_completions
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from acip_core.pipelines import example_completions, precompute
from acip_core.progress import Progress
from tests.support.commands import run
from tests.support.faults import full_disk
from tests.support.tiny import tiny_artifact, tiny_base

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts are looked for below the working directory, too, which is not to be this repository."""
    monkeypatch.chdir(tmp_path)


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


@pytest.fixture
def model(tmp_path: Path, cache: Path) -> str:
    base = tiny_base()
    base.model.save_pretrained(tmp_path / "tiny [1]")
    base.tokenizer.save_pretrained(tmp_path / "tiny [1]")
    return str(tmp_path / "tiny [1]")


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file to precompute with; the examples are then completed at three sizes, not at 36."""
    monkeypatch.setattr(example_completions, "STRIDE", 30)
    file = tmp_path / "text [b].txt"
    file.write_text("\n\n".join(f"Line {i} says {i * i} and then {i**5}, no more." * 2 for i in range(700)))
    return str(file)


def test_precompute_and_prepare(
    model: str, text: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    arguments = ("precompute", model, "--quick", "--corpus", text, "--out", str(out))
    code, output = run(monkeypatch, capsys, *arguments)
    assert code == 0, output
    assert f"The artifact is in {out}." in output
    assert f"measuring predicted, {text} 48/48" in output  # nothing of a name is taken for colours
    assert re.search(r"gradient moments (\d+)/\1", output) and "second moments 1/12" in output
    assert "making codes 15/15" in output and (out / CODING).is_file()
    (curve,) = read_artifact(out).curves
    assert curve.corpus == text and [round(p.ratio, 1) for p in curve.points] == [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    code, output = run(monkeypatch, capsys, "prepare", model, "--artifact", str(out))
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
        arguments = ("precompute", f"{parent}/last", "--quick", "--no-codes", "--corpus", text, *more)
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
    for verb in (("export", "two/last", "~/out", "--size", "0.6"), ("prepare", "two/last")):
        code, output = run(monkeypatch, capsys, *verb, named)
        assert code == 0, output
    assert (tmp_path / "out" / "config.json").is_file() and not (tmp_path / "~").exists()
    for verb in (
        ("examples", "two/last"), ("measure", "precision", "two/last"), ("measure", "methods", "two/last"),
        ("measure", "ablations", "two/last"), ("measure", "tasks", "two/last", "--tasks", "c4"),
        ("measure", "curve", "two/last"),
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
    for verb in (("prepare", model), ("export", model, "out", "--size", "0.7")):
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
    code, output = run(monkeypatch, capsys, "prepare", model, "--artifact", str(tmp_path / "none"))
    assert code == 2 and f"Error: No artifact at {tmp_path / 'none'};" in output and "Traceback" not in output


def test_a_full_disk(
    model: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("precompute", model, "--quick", "--no-codes", "--corpus", text, "--out", str(tmp_path / "out"))
    with full_disk():
        code, output = run(monkeypatch, capsys, *arguments)
    assert code == 2 and "Error: Cannot write" in output and "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_ctrl_c_for_real(model: str, text: str, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "acip_core", "precompute", model, "--quick", "--no-codes", "--corpus", text]
    environment = os.environ | {
        "COLUMNS": "300",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(cli.__file__).parents[2]),
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
    assert code == 2 and "between 0 and 1" in output
    code, output = run(monkeypatch, capsys, *arguments[:2], " ", *arguments[3:])
    assert code == 2 and "The prompt is empty" in output


def test_measure_curve_measures_the_artifacts_primary_curves_again(
    model: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert (
        run(monkeypatch, capsys, "precompute", model, "--quick", "--no-codes", "--corpus", text, "--out", str(out))[0]
        == 0
    )
    made, texts = read_artifact(out), read_completions(out)
    curves = [replace(c, base_perplexity=9.0, points=(replace(c.points[0], perplexity=9.0),)) for c in made.curves]
    other = replace(made.curves[0], method="another")
    write_artifact(replace(made, curves=(*curves, other)), out, lambda place: write_completions(texts, place))
    code, output = run(monkeypatch, capsys, "measure", "curve", model, "--artifact", str(out))
    assert code == 0 and "measuring predicted" in output and "30%" in output, output
    assert read_artifact(out).curves == (*made.curves, other) and read_completions(out) == texts
    write_artifact(replace(made, curves=()), out)
    code, output = run(monkeypatch, capsys, "measure", "curve", model, "--artifact", str(out))
    assert code == 2 and "has no curve to measure" in output


FORMER = {  # command lines of READMEs before, and how they are written now; None where nothing changed
    "acip precompute": None,
    "acip precompute --model org/name": "acip precompute org/name",
    "acip precompute --model=org/name --quick": "acip precompute org/name --quick",
    "acip precompute --scorer acip --preset paper --basis svd": None,
    "acip prepare": None,
    "acip report --model org/name": "acip report org/name",
    "acip renew FOLDER": None,
    "acip complete": "acip examples",
    "acip complete --model org/name": "acip examples org/name",
    "acip export smollm2-135m-instruct --size 0.6 my-model": None,
    "acip export smollm2-135m-instruct --size 0.6 my-model --precision int4": None,
    "acip finetune smollm2-135m-instruct --size 0.5 --data notes.txt": None,
    "acip push FOLDER user/repo": None,
    "acip quantize smollm2-135m-instruct": "acip measure precision smollm2-135m-instruct",
    "acip evaluate smollm2-135m-instruct --sizes 1.0,0.8,0.6,0.4 --tasks arc_easy,piqa,c4": (
        "acip measure tasks smollm2-135m-instruct --sizes 1.0,0.8,0.6,0.4 --tasks arc_easy,piqa,c4"
    ),
    "acip compare": "acip measure methods",
    "acip compare --model org/name --method svd-llm": "acip measure methods org/name --method svd-llm",
    "acip ablate": "acip measure ablations",
    "acip app": None,
    "acip app --host 0.0.0.0": None,
    "acip app --precision int4": None,
    "acip app --model smollm2-135m-instruct --model org/name": "acip app smollm2-135m-instruct org/name",
}


@pytest.mark.parametrize(("former", "now"), FORMER.items(), ids=FORMER)
def test_command_lines_of_the_release_before_work_and_say_what_they_are_now(
    former: str, now: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls: list[tuple[str, dict[str, object]]] = []

    def recorded(function: Callable[..., None]) -> Callable[..., None]:
        return functools.wraps(function)(lambda **given: calls.append((function.__name__, given)))

    groups = [cli.app, *(group.typer_instance for group in cli.app.registered_groups)]
    for command in (command for group in groups for command in group.registered_commands):
        monkeypatch.setattr(command, "callback", recorded(command.callback))
    code, output = run(monkeypatch, capsys, *shlex.split(former)[1:])
    assert code == 0, output
    assert output == (f"This is written `{now}` now; the old form works for one release.\n" if now else "")
    code, output = run(monkeypatch, capsys, *shlex.split(now or former)[1:])
    assert code == 0 and not output and calls[0] == calls[1]


def test_every_verb_of_the_release_before_is_among_them() -> None:
    before = "precompute prepare report renew complete export finetune push quantize evaluate compare ablate app"
    assert {shlex.split(line)[1] for line in FORMER} == set(before.split())
