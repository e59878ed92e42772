"""The README says what was measured and shows code that runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.readme import ROOT, refreshed

README = ROOT / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_tables_are_what_the_generator_writes() -> None:
    text = README.read_text(encoding="utf-8")
    assert refreshed(text) == text, "run `python -m benchmarks --readme`"


@pytest.mark.real
@pytest.mark.parametrize("code", SNIPPETS, ids=[str(i + 1) for i in range(len(SNIPPETS))])
def test_every_python_snippet_runs(code: str, default_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out


def test_the_api_is_shown() -> None:
    assert any("acip_core.load(" in code for code in SNIPPETS)


def test_importing_the_package_is_instant() -> None:
    code = "import sys, acip_core; assert not {'torch', 'gradio', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_only_the_page_knows_gradio() -> None:
    for file in (ROOT / "acip_core").rglob("*.py"):
        if "ui" not in file.relative_to(ROOT).parts:
            assert not re.search(
                r"^\s*(import|from) (gradio|plotly)", file.read_text(encoding="utf-8"), re.MULTILINE
            ), file


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:^|`)make ([a-z]+)", README.read_text(encoding="utf-8"), re.MULTILINE)):
        assert f"\n{target}:" in makefile
