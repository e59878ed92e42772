"""The report: one file that shows everything and needs nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from acip_core.artifacts.artifact import Artifact
from acip_core.artifacts.reader import read_artifact
from acip_core.artifacts.writer import write_artifact
from acip_core.errors import StorageError
from acip_core.figures.report import report_html, write_report
from acip_core.pipelines import precompute
from acip_core.progress import Progress
from tests.support.browser import PATIENCE
from tests.support.commands import run
from tests.support.faults import full_disk
from tests.support.pictures import HOSTILE, a_comparison
from tests.support.tiny import random_scores, tiny_base

# ---- the report ------------------------------------------------------------------------------------------------------


def outside_scripts(text: str) -> str:
    return re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", text, flags=re.DOTALL)


def test_the_report_is_one_file(artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_report(artifact, path)
    text = path.read_text(encoding="utf-8")
    page = outside_scripts(text)
    assert not re.search(r"\bsrc=|\bhref=|<link|@import|url\(|https?:", page)
    assert text.count("<script") == 3 and "plotly.js v" in text
    assert "content=\"default-src 'none';" in page
    assert "tiny-llama" in page and "adapters: alpha" in page and "perplexity, Wikipedia" in page and "70 %" in page
    write_report(replace(artifact, name="another"), path)
    assert "another" in path.read_text(encoding="utf-8") and [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_hostile_names_stay_text(artifact: Artifact) -> None:
    hostile = replace(
        artifact,
        name=HOSTILE,
        source=HOSTILE,
        recipe=artifact.recipe | {HOSTILE: [HOSTILE]},
        curves=tuple(replace(curve, corpus=HOSTILE, method=HOSTILE) for curve in artifact.curves),
        scores={f"{HOSTILE}{i}": score for i, score in enumerate(artifact.scores.values())},
        adapters=None,
    )
    text = report_html(hostile)
    assert "<img" not in text and text.count("<script") == 3
    assert "evil.example" not in outside_scripts(text).replace(
        "&lt;img src=http://evil.example/x onerror=alert(2)&gt;", ""
    )


def test_a_report_is_not_written_over_a_folder(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(StorageError, match="is a folder"):
        write_report(artifact, tmp_path)
    assert (tmp_path / "kept").exists()


def test_a_full_disk(artifact: Artifact, tmp_path: Path) -> None:
    with full_disk(), pytest.raises(StorageError, match="Cannot write"):
        write_report(artifact, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_report_from_the_command_line(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny [1]"
    write_artifact(artifact, folder)
    code, output = run(monkeypatch, capsys, "report", "--artifact", str(folder))
    assert code == 0 and f"The report is {folder / 'report.html'}." in output
    code, output = run(monkeypatch, capsys, "report", "--artifact", str(folder), "--out", str(tmp_path / "own.html"))
    assert code == 0 and (tmp_path / "own.html").read_bytes() == (folder / "report.html").read_bytes()
    assert read_artifact(folder).name == artifact.name
    write_artifact(artifact, folder)  # a folder with a report in it can still be replaced
    assert (folder / "report.html").read_bytes() == (tmp_path / "own.html").read_bytes()
    (folder / "scores.safetensors").write_bytes(b"nothing")
    code, output = run(monkeypatch, capsys, "report", "--artifact", str(folder))
    (sentence,) = [line for line in output.splitlines() if line.startswith("Error:")]
    assert code == 2 and "scores.safetensors is damaged" in sentence and "Traceback" not in output
    for wrong in (("no/such",), ("--artifact", str(tmp_path / "none")), ("--out", str(tmp_path))):
        code, output = run(monkeypatch, capsys, "report", *wrong)
        assert code == 2 and output.count("Error:") == 1 and "Traceback" not in output


@pytest.mark.parametrize("options", [(), ("--report",)])
def test_precompute_with_a_report(
    options: tuple[str, ...],
    artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def made(*_: object):
        yield Progress("scoring", 1, 1)
        write_artifact(artifact, tmp_path / "made")
        return tmp_path / "made"

    monkeypatch.setattr(precompute, "precompute", made)
    code, _ = run(monkeypatch, capsys, "precompute", *options)
    assert code == 0 and (tmp_path / "made" / "report.html").exists() == bool(options)


@pytest.mark.browser
def test_the_report_needs_nothing_else(browser: Browser, artifact: Artifact, tmp_path: Path) -> None:
    names = {f"model.layers.{i}.<b>{HOSTILE}": score for i, score in enumerate(random_scores(tiny_base()).values())}
    hostile = replace(artifact, name=HOSTILE, scores=names, adapters=None)
    write_report(hostile, tmp_path / "report.html", a_comparison())
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or wrong.append(request.url))
    page.goto(f"file://{tmp_path / 'report.html'}")
    expect(page.locator("h1")).to_contain_text(HOSTILE)
    expect(page.locator("#history .plot[data-ready=true]")).to_have_count(5)
    expect(page.locator("#curves .plot[data-ready=true]")).to_have_count(2)
    assert page.locator("#maps .plot").count() >= 1
    light = page.evaluate("document.querySelector('#curves .xtick text').style.fill")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("light => document.querySelector('#curves .xtick text').style.fill !== light", arg=light)
    page.close()
    assert wrong == []
