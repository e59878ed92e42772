"""The README and docs/ say what was measured, show code that runs, commands that exist, links that lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import acip_core
from acip_core import cli
from acip_core.model import code_cache
from acip_core.model.codes import Codes, steps
from benchmarks import __main__ as benchmarks
from benchmarks import documents, recording, screenshot
from benchmarks.tables import ROOT
from examples import smallest_size_that_still_knows as example

pytestmark = pytest.mark.long

GENERATED = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in documents.documents()}
DOCUMENTS = GENERATED | {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")
}
CODE = {
    name: blocks for name, text in DOCUMENTS.items() if (blocks := re.findall(r"```python\n(.*?)```", text, re.DOTALL))
}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


@pytest.mark.parametrize("name", GENERATED)
def test_tables_and_help_are_what_the_generator_writes(name: str) -> None:
    assert documents.refreshed(GENERATED[name]) == GENERATED[name], "run `python -m benchmarks --docs`"


def test_every_part_is_in_some_document() -> None:
    assert set(re.findall(r"<!-- ([a-z]+) -->", "".join(GENERATED.values()))) == set(documents.PARTS)
    with pytest.raises(ValueError, match="writes the part <!-- weather -->"):
        documents.refreshed("<!-- weather -->\n<!-- /weather -->")


@pytest.mark.parametrize("options", [{"docs_only": True}, {"readme_only": True}], ids=["--docs", "--readme"])
def test_documents_are_refreshed_and_nothing_measured(
    options: dict[str, bool], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refreshed: list[bool] = []
    monkeypatch.setattr(benchmarks, "refresh", lambda: refreshed.append(True))
    monkeypatch.setattr(benchmarks, "BENCHMARKS", {"quality": lambda: pytest.fail("it measured")})
    benchmarks.main(**options)
    assert refreshed == [True] and ("is now --docs" in capsys.readouterr().out) == ("readme_only" in options)


@pytest.fixture
def rounded_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of the default model in seconds instead of minutes: at one level, rounded without feedback."""

    def rounded(weight: torch.Tensor, *moments: torch.Tensor) -> list[Codes]:
        *_, levels = moments
        step = weight.abs().amax(1).div(100).log2().mul(8).ceil()
        nothing = torch.zeros(weight.shape[1], dtype=torch.int16)
        rows = (step + 48).to(torch.int16)
        return [Codes((weight / steps(rows)[:, None]).round().to(torch.int8), rows, nothing)] * len(levels)

    monkeypatch.setattr(code_cache, "quantize", rounded)
    monkeypatch.setattr(code_cache, "LEVELS", 1)
    monkeypatch.setattr(code_cache, "_FORMAT", "rounded:")  # nobody else is to read them


@pytest.mark.real
@pytest.mark.usefixtures("rounded_codes")
@pytest.mark.parametrize("name", CODE)
def test_every_python_block_runs(
    name: str, default_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of a document one after the other, as somebody who reads on would type them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in CODE[name]:
        exec(compile(code, name, "exec"), names)
    assert capsys.readouterr().out


@pytest.mark.real
def test_the_example_finds_the_smallest_sizes(default_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example.main()
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.endswith("known down to") and len(rows) == len(example.FACTS)
    sizes = dict(re.findall(r"^(.+?) {2,}.* (\d+) %$", "\n".join(rows), re.MULTILINE))
    assert 50 <= int(sizes["The capital of Germany is called"]) <= 75


def test_the_readme_is_short_and_shows_the_api() -> None:
    assert len(GENERATED["README.md"].splitlines()) <= 170
    assert any("AcipModel.from_pretrained(" in code for code in CODE["README.md"])


def alone(function: Callable[..., Any]) -> Any:
    """The command that `typer.run` makes of a function."""
    program = typer.Typer(add_completion=False)
    program.command()(function)
    return typer.main.get_command(program)


PROGRAMS = {
    "acip": typer.main.get_command(cli.app),
    "python -m acip_core": typer.main.get_command(cli.app),
    "python app.py": typer.main.get_command(cli.app).commands["app"],  # type: ignore[attr-defined]
    "python -m benchmarks": alone(benchmarks.main),
    "python -m benchmarks.recording": alone(recording.main),
    "python -m benchmarks.screenshot": alone(screenshot.main),
}
TARGETS = {"app": "acip app", "bench": "python -m benchmarks", "precompute": "acip precompute"}


def commands(text: str) -> Iterator[str]:
    """What a document shows to be typed: lines of shell blocks, and code within sentences."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from block.splitlines()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))


def parse(command: str) -> bool:
    """Whether a command is one of ours; fails where the program would refuse it. A verb alone stands for itself."""
    words = shlex.split(command, comments=True)
    if words[:1] == ["make"] and words[2:] and words[1] in TARGETS:
        words = [*TARGETS[words[1]].split(), *shlex.split(words[2].removeprefix("ARGS="))]
    name = next((name for name in PROGRAMS if name.split() == words[: len(name.split())]), None)
    if name is None:
        return False
    program, rest = PROGRAMS[name], words[len(name.split()) :]
    while rest and hasattr(program, "resolve_command"):
        name, program, rest = program.resolve_command(program.context_class(program, info_name=name), rest)
    if rest:
        program.make_context(name, rest)
    return True


def examined(command: str) -> bool:
    try:
        return parse(command)
    except typer.Exit:  # of an option that does all there is to do, as --version
        return True
    except Exception as error:
        pytest.fail(f"{command}: {getattr(error, 'message', '') or error}")


def test_every_command_exists_with_its_options() -> None:
    found = [command for text in DOCUMENTS.values() for command in commands(text) if examined(command)]
    assert len(found) > 20
    with pytest.raises(pytest.fail.Exception, match="--sizes"):
        examined("acip export model folder --sizes 0.5")
    with pytest.raises(pytest.fail.Exception, match="fly"):
        examined("acip fly")


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", "".join(DOCUMENTS.values()), re.MULTILINE))
    assert {"app", "test", "lint", "lock"} <= targets
    for target in targets:
        assert f"\n{target}:" in makefile


def anchors(path: Path) -> set[str]:
    """What links may point at within a document, as its readers on the web name it."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[name]):
        target, _, anchor = link.partition("#")
        if not target.startswith("https://"):
            path = (ROOT / name).parent / target if target else ROOT / name
            assert path.exists(), link
            assert not anchor or anchor in anchors(path), link


def test_the_version_is_the_same_everywhere() -> None:
    assert acip_core.__version__ == VERSION
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    first, *others = re.findall(r"^## \[(.+?)\]", DOCUMENTS["CHANGELOG.md"], re.MULTILINE)
    assert first == "Unreleased" and VERSION in others


def test_importing_the_package_is_instant() -> None:
    code = "import sys, acip_core; assert not {'torch', 'gradio', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
