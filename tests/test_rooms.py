"""The map in `acip_core/README.md` is true: the rooms, their order, what they import, the files of its journeys."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "acip_core"
MAP = (PACKAGE / "README.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"^- `(\w+)/` ", MAP, flags=re.MULTILINE)
ABOVE, BELOW = ("errors", "progress", "paths"), ("api", "cli", "__init__", "__main__")
FILES = sorted(PACKAGE.rglob("*.py"))
LIBRARIES = {"gradio": {"ui"}, "plotly": {"ui", "figures"}}


def name_of(file: Path) -> str:
    """A module's dotted name below the package; a room's own file is named like the room."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(file) for file in FILES}


def place_of(module: str) -> int:
    """Where a module stands on the way down."""
    room = module.partition(".")[0]
    return (*ABOVE, *ROOMS, *BELOW).index(room)


def imports_of(file: Path) -> Iterator[str]:
    """All modules that a file imports, anywhere in it: those of the package by their names below it."""
    package = file.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            start = ".".join((*package[: len(package) + 1 - node.level], *filter(None, [node.module])))
            for alias in node.names:
                whole = f"{start}.{alias.name}".strip(".")
                yield whole if whole in MODULES else start
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


def test_the_map_names_every_room() -> None:
    folders = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert len(ROOMS) == len(set(ROOMS)) and folders - set(BELOW) == set(ROOMS)
    loose = {file.stem for file in PACKAGE.glob("*.py")}
    assert loose | folders == {*ABOVE, *ROOMS, *BELOW}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_arrows_go_down_only(file: Path) -> None:
    own = name_of(file)
    for module in imports_of(file):
        if module in MODULES and place_of(module) != place_of(own):
            assert place_of(module) < place_of(own), f"{own} imports {module}"


def test_there_is_no_circle() -> None:
    arrows = {name_of(file): {m for m in imports_of(file) if m in MODULES} for file in FILES}
    while free := {module for module, targets in arrows.items() if not targets & arrows.keys()}:
        arrows = {module: targets for module, targets in arrows.items() if module not in free}
    assert not arrows


@pytest.mark.parametrize(("library", "rooms"), LIBRARIES.items())
def test_libraries_stay_in_their_rooms(library: str, rooms: set[str]) -> None:
    users = {name_of(file).partition(".")[0] for file in FILES for module in imports_of(file)
             if module.partition(".")[0] == library}  # fmt: skip
    assert users <= rooms


def test_the_journeys_lead_through_files_that_exist() -> None:
    journeys = re.findall(r"^    ([\w/]+\.py) +(.*)$", MAP, flags=re.MULTILINE)
    assert len(journeys) > 10
    for path, text in journeys:
        source = (PACKAGE / path).read_text(encoding="utf-8")
        for name in re.findall(r"(?:\w+\.)?(\w+)(?=:|\()", text):
            assert re.search(rf"\b{name}\b", source), f"{path} has no {name}"


def test_no_test_file_imports_another() -> None:
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        modules = [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not [module for module in modules if re.search(r"(^|\.)(test_\w+|conftest)$", module)], file
