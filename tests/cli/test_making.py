"""`acip precompute` and `acip prepare`, as people type them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from acip_core import cli, paths
from acip_core.artifacts.coding import CODING
from acip_core.artifacts.reader import read_artifact
from tests.support.commands import run
from tests.support.faults import full_disk
from tests.support.tiny import tiny_base

pytestmark = pytest.mark.long


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
