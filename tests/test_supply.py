"""What is installed: every package at an exact version with hashes, and nothing that is imported is left to chance."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parent.parent
RUNTIME = ["requirements.txt", "requirements-eval.txt"]
DIRECT = {  # requirements files that may bring what a folder or file imports
    "acip_core": RUNTIME,
    "app.py": RUNTIME,
    "benchmarks": [*RUNTIME, "requirements-dev.txt", "requirements-peers.txt"],
    "tests": [*RUNTIME, "requirements-dev.txt"],
}
HASHED = ["requirements.lock", "requirements-dev.lock", "requirements-embedded.lock"]
LOCKS = [*HASHED, "requirements-torch.lock"]


def entries(name: str) -> list[str]:
    """A requirements file's entries, each on one line with its hashes; comments and references are left out."""
    text = re.sub(r"(^|\s)#.*", "", (ROOT / name).read_text(encoding="utf-8")).replace("\\\n", " ")
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("-")]


def pins(name: str) -> dict[NormalizedName, str]:
    """Exact versions by package of those entries of a requirements file that hold on this machine."""
    found = {}
    for entry in entries(name):
        requirement = Requirement(entry.split(" --hash")[0])
        (pin,) = requirement.specifier
        assert pin.operator == "==" and "*" not in pin.version, f"{name}: {requirement}"
        if requirement.marker is None or requirement.marker.evaluate():
            found[canonicalize_name(requirement.name)] = pin.version
    return found


def imported(path: Path) -> set[str]:
    """Top-level names a file or a folder's files import, wherever in them, without the standard library and our own."""
    names: set[str] = set()
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - {"app", "acip_core", "benchmarks", "examples", "tests"}


@pytest.mark.parametrize("place", DIRECT)
def test_what_is_imported_is_listed(place: str) -> None:
    listed = {name for file in DIRECT[place] for name in pins(file)}
    homes = {"ggml": ["ggml-py"], **packages_distributions()}  # which nothing installs by itself
    for module in imported(ROOT / place):
        packages = {canonicalize_name(package) for package in homes.get(module, [module])}
        assert packages & listed, f"{place} imports {module}, of {packages}: list it in {DIRECT[place][-1]}"


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_exact_and_names_no_place(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert pins(name)
    assert not re.search(r"://|index-url|find-links|@ ", text)
    for entry in entries(name):
        assert ("--hash=sha256:" in entry) == (name in HASHED), entry


@pytest.mark.parametrize(
    ("lock", "files"),
    [
        ("requirements.lock", ["requirements.txt"]),
        ("requirements-dev.lock", [*RUNTIME, "requirements-dev.txt"]),
        ("requirements-torch.lock", []),
        ("requirements-embedded.lock", ["requirements-embedded.txt"]),
    ],
)
def test_locks_agree_with_the_requirements_and_each_other(lock: str, files: list[str]) -> None:
    wanted = {name: pin for file in files for name, pin in pins(file).items() if name != "torch"}
    locked = pins(lock)
    assert wanted.items() <= locked.items(), "run `make lock`"
    torch = {"torch": pins("requirements.txt")["torch"]}
    everything = pins("requirements-dev.lock") | pins("requirements.lock") | torch
    assert all(everything.get(name, pin) == pin for name, pin in locked.items()), "run `make lock`"


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_all_that_a_locked_package_needs_is_locked(lock: str) -> None:
    """torch's own needs as well, whichever build this machine has, but for the libraries of CUDA's."""
    locked, torch_lock = pins(lock), pins("requirements-torch.lock")
    for name in [*locked, "torch"]:
        for need in needs(name):
            there = need in locked or need == "torch" or (need in torch_lock and name in torch_lock)
            assert there, f"{name} needs {need}: run `make lock`"


def needs(name: str) -> set[NormalizedName]:
    """Packages that an installed package requires on this machine without extras."""
    found = set()
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({**default_environment(), "extra": ""}):
            found.add(canonicalize_name(requirement.name))
    return found


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_what_is_tested_is_what_is_locked(lock: str) -> None:
    assert {name: version(name) for name in pins(lock)} == pins(lock), "run `make test`, which installs from the lock"


def installs(text: str) -> list[str]:
    """The `pip install` commands of a recipe, without the options that say nothing about what is installed."""
    quiet = r"(?: -qq| --no-compile| --disable-pip-version-check| \$\{PIP_OPTIONS\})*"
    return re.findall(rf"pip install{quiet} (.*?)[\s\\&|]*\n", text)


def test_make_and_the_container_install_from_the_locks() -> None:
    command = ["make", "-n", "-B", "PYTHON=python3", ".venv/installed-dev"]
    recipe = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    runtime = [
        "--require-hashes --no-deps -r requirements.lock",
        "-c requirements-torch.lock torch",
        "--require-hashes --no-deps -r requirements-embedded.lock",
    ]
    assert installs(recipe) == [*runtime, "--require-hashes --no-deps -r requirements-dev.lock"]
    container = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert installs(container) == runtime
    assert re.search(r"^FROM python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", container, re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    kept = re.findall(r"requirements[\w-]*\.lock", container)
    assert kept and not any(fnmatch(name, pattern) for name in kept for pattern in ignored)


def test_every_system_and_python_finds_its_own_entries() -> None:
    """The locks hold for other machines too: what only Python 3.13 or Windows needs is there, under a marker."""
    requirements = [Requirement(entry.split(" --hash")[0]) for entry in entries("requirements.lock")]
    markers = {requirement.name: requirement.marker for requirement in requirements}
    audio, colours = markers["audioop-lts"], markers["colorama"]
    assert audio is not None and colours is not None
    assert [audio.evaluate({"python_full_version": f"3.{minor}.0"}) for minor in (11, 12, 13)] == [False, False, True]
    assert [colours.evaluate({"sys_platform": name}) for name in ("linux", "darwin", "win32")] == [False, False, True]
