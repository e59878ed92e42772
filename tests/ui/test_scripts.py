"""The page's scripts: modules that hold together, leave the window alone, and reach browsers whole."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from acip_core.ui import components, page
from acip_core.ui.scripts import head
from tests.support import patient
from tests.support.visitor import served, tiny_loaded

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "assets"
MODULES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ASSETS / "js").glob("*.js"))}
INLINE = {
    path.name: "\n".join(re.findall(r"<script[^>]*>(.*?)</script>", path.read_text(encoding="utf-8"), re.DOTALL))
    for path in sorted(ASSETS.rglob("*.html"))
}
GLOBAL = re.compile(
    r"\b(?:window|globalThis|self|top|parent)\s*(?:\.\s*\w+|\[[^\]]*\])\s*(?:\?\?|\|\||&&|[-+*/])?=(?!=)"
    r"|\b(?:assign|defineProperty|defineProperties)\(\s*(?:window|globalThis|self)\b"
)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with served(tiny_loaded()) as (address, _), patient.Client(base_url=address) as client:
        yield client


@pytest.mark.parametrize("code", (MODULES | INLINE).values(), ids=(MODULES | INLINE).keys())
def test_no_script_assigns_to_the_window(code: str) -> None:
    assert not GLOBAL.search(code)


@pytest.mark.parametrize(
    "code",
    ["window.acip = 1", "window.acip ??= 1", 'globalThis["acip"]=1', "Object.assign(window, {})", "self.n += 1"],
)
def test_an_assignment_to_the_window_is_recognized(code: str) -> None:
    assert GLOBAL.search(code) and not GLOBAL.search("if (window.Plotly === undefined || window.a == b) return")


def test_every_module_is_part_of_the_one_entry() -> None:
    found, missing = set(), ["main.js"]
    while missing:
        name = missing.pop()
        if name not in found:
            found.add(name)
            missing += re.findall(r'from "\./([^"]+)"', MODULES[name])
    assert found == set(MODULES)


def test_the_report_holds_a_module_that_needs_no_other() -> None:
    assert not re.search(r"^import\b", MODULES["figures.js"], re.MULTILINE)


def test_gradio_calls_what_the_entry_exports() -> None:
    python = "".join(Path(part.__file__).read_text(encoding="utf-8") for part in (page, components))
    called = re.findall(r'scripts\.(?:calling|mounting)\("(\w+)"\)', python)
    called += re.findall(r'_drawn\(\s*"[\w-]+",\s*"(\w+)"', python)
    exported = re.findall(r"^export (?:const|(?:async )?function) (\w+)", MODULES["main.js"], re.MULTILINE)
    for names in re.findall(r"^export \{ ([^}]+) \}", MODULES["main.js"], re.MULTILINE):
        exported += names.split(", ")
    assert set(called) == set(exported)


def test_scripts_are_given_what_they_expect(client: httpx.Client) -> None:
    (declared,) = re.findall(
        r"^interface PageData \{\n(.*?)^\}", (ASSETS / "js" / "types.d.ts").read_text(encoding="utf-8"), re.M | re.S
    )
    given = json.loads(_elements(client.get("").text)["script", "acip-data"])
    assert set(given) == set(re.findall(r"^  (\w+)\??:", declared, re.MULTILINE))


def test_values_stay_inside_their_element() -> None:
    hostile = "</script><script>alert(1)</script><!--"
    assert json.loads(_elements(head({"model": hostile}))["script", "acip-data"]) == {"model": hostile}


def test_modules_are_kept_by_the_browser_until_one_of_them_changes(client: httpx.Client) -> None:
    paths = re.findall(r'(?:href|src)="(acip/js/[^"]+)"', client.get("").text)
    assert {Path(path).name for path in paths} == set(MODULES) and len({Path(path).parent for path in paths}) == 1
    for path in paths:
        answer = client.get(path)
        assert answer.text == MODULES[Path(path).name] and "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["Content-Type"].startswith("text/javascript")
    folder = Path(paths[0]).parent
    for path in (f"{folder}/types.d.ts", f"{folder}/none.js", f"{folder}/..%2fpage.css", "acip/js/older/main.js"):
        assert client.get(path).status_code == 404


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))
    assert all(
        "resolved" not in package and package.get("integrity", name == "") for name, package in lock["packages"].items()
    )


def test_the_checkers_are_content() -> None:
    if not (ROOT / "node_modules" / "installed").exists() or shutil.which("npm") is None:
        pytest.skip("`make lint` installs what checks the scripts, where there is node")
    result = subprocess.run(["npm", "run", "-s", "lint"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, f"run `make format`:\n{result.stdout}{result.stderr}"


def _elements(text: str) -> dict[tuple[str, str | None], str]:
    """The text of each element, as a browser finds it, by tag and id."""
    found: dict[tuple[str, str | None], str] = {}

    class Reader(HTMLParser):
        at: tuple[str, str | None] = ("", None)

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            self.at = (tag, dict(attributes).get("id"))

        def handle_data(self, data: str) -> None:
            found[self.at] = found.get(self.at, "") + data

    Reader().feed(text)
    return found
