"""The package from outside: its few names, an import that costs nothing, a wheel that holds all it needs."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import acip_core

ROOT = Path(__file__).parent.parent


def test_every_public_name_is_there() -> None:
    assert len(acip_core.__all__) == len(set(acip_core.__all__)) < 15
    for name in acip_core.__all__:
        assert getattr(acip_core, name).__doc__, name
    assert set(acip_core.__all__) <= set(dir(acip_core))
    source = ast.parse((ROOT / "acip_core" / "__init__.py").read_text(encoding="utf-8"))
    (seen,) = [node for node in source.body if isinstance(node, ast.If)]  # by type checkers
    assert {alias.name for node in seen.body if isinstance(node, ast.ImportFrom) for alias in node.names} == set(
        acip_core.__all__
    )


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        acip_core.nothing  # noqa: B018
    with pytest.raises(ImportError):
        exec("from acip_core import nothing")


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, acip_core; assert not {'torch', 'numpy', 'transformers', 'typer'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


MODULE = "import runpy, sys; sys.argv = ['', '--help']; runpy.run_module('{}', run_name='__main__')"
ENTRIES = {
    "the API": "import acip_core",
    "the command line": MODULE.format("acip_core"),
    "its script": "import sys; sys.argv = ['acip', '--help']; from acip_core.cli import main; main()",
    "the page": MODULE.format("app"),
    "the benchmarks": MODULE.format("benchmarks"),
}
SWITCHES = ("HF_HUB_DISABLE_TELEMETRY", "HF_UPDATE_DOWNLOAD_COUNTS", "GRADIO_ANALYTICS_ENABLED", "DO_NOT_TRACK")
HUB = "__import__('huggingface_hub.constants').constants.HF_HUB_DISABLE_TELEMETRY"
ENVIRONMENT = f"[{HUB}, *map(__import__('os').environ.get, {SWITCHES[1:]})]"
LIBRARIES = (
    f"[{HUB}, __import__('datasets.config').config.HF_UPDATE_DOWNLOAD_COUNTS, "
    "__import__('gradio').Blocks().analytics_enabled]"
)


def after(entry: str, question: str, **chosen: str) -> list[object]:
    """Answers to a question about what is reported, in a process that entered the package in one of its ways."""
    code = f"try:\n    {entry}\nexcept SystemExit:\n    pass\nimport json\nprint(json.dumps({question}))"
    environment = {name: value for name, value in os.environ.items() if name not in (*SWITCHES, "DISABLE_TELEMETRY")}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=environment | chosen)
    return json.loads(found.stdout.splitlines()[-1])


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_no_entry_reports_to_anybody(entry: str) -> None:
    assert after(entry, ENVIRONMENT) == [True, "0", "False", "1"]


def test_the_libraries_that_would_report_obey() -> None:
    assert after(ENTRIES["the API"], LIBRARIES) == [True, False, False]


def test_reports_are_sent_when_the_user_asks_for_them() -> None:
    chosen = dict(zip(SWITCHES, ("0", "1", "True", "0"), strict=True))
    assert after(ENTRIES["the API"], ENVIRONMENT, **chosen) == [False, "1", "True", "0"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip install .` makes, built from a copy of the repository, without network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("acip_core", "assets", "precomputed"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    (source / "precomputed" / "smollm2-135m-instruct" / "report.html").touch()  # made by `acip report`; not in git
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("acip-*.whl"))


def test_the_wheel_holds_the_package_its_assets_and_the_default_artifact(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entries,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "acip = acip_core.cli:main" in archive.read(entries).decode()
    bundled = [file for name in ("assets", "precomputed") for file in (ROOT / name).rglob("*") if file.is_file()]
    expected = {f"acip_core/{file.relative_to(ROOT)}" for file in bundled}
    code = (file for file in (ROOT / "acip_core").rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    expected |= {str(file.relative_to(ROOT)) for file in code} - {"acip_core/README.md"}
    assert held == {name for name in expected if not name.endswith("instruct/report.html")}


INSTALLED = """
import sys
from pathlib import Path
import acip_core
from acip_core.paths import artifact_homes, artifacts_home, assets_dir
from acip_core.ui import waiting

home, name = Path(sys.argv[1]), "smollm2-135m-instruct"
assert Path(acip_core.__file__).parent == home and assets_dir() == home / "assets"
assert (home / "assets" / "page.css").is_file() and waiting.__file__.startswith(str(home))
assert [place for place in artifact_homes() if (place / name / "acip.json").is_file()] == [home / "precomputed"]
assert not artifacts_home().is_relative_to(home)
"""


def test_an_installed_package_finds_what_belongs_to_it_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site), "HOME": str(work)}
    command = [sys.executable, "-c", INSTALLED, str(site / "acip_core")]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    script = "from acip_core.cli import main; main(['app', '--help'])"
    shown = subprocess.run([sys.executable, "-c", script], cwd=work, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0 and "browser" in shown.stdout, shown.stderr[-2000:]
