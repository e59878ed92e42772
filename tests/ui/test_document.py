"""The page's HTML as browsers and sites that preview a link get it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gradio
import pytest

from acip_core.artifacts.completions import Completions
from acip_core.ui.links import CODE_VARIABLE, code_address, model_card_address
from tests.support import patient
from tests.support.visitor import served, tiny_loaded

FILE = re.compile(r'(?:src|href)="\./(assets/[^"]+)"')
PROMPT = "<script>alert(1)</script> & {{ so on }}"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    texts = {100: " the original's ${text}", 50: " another </pre> text"}
    with served(replace(tiny_loaded(), completions=[Completions(PROMPT, 8, texts)])) as (address, _):
        yield address


def tags(html: str) -> dict[str, str]:
    return dict(re.findall(r'<meta (?:property|name)="((?:og|twitter):\w+|description)" content="([^"]*)">', html))


def test_one_set_of_preview_tags_with_absolute_addresses(address: str) -> None:
    html = patient.get(address).text
    assert "gradio.app" not in html.partition("<script")[0] and html.count('property="og:title"') == 1
    assert 'rel="manifest"' not in html  # there is none: each visitor's console would say so
    found = tags(html)
    assert found["og:title"] == "One model, every size" and "drag the slider" in found["og:description"].lower()
    assert found["og:url"] == address and found["og:image"].startswith(address)
    image = patient.get(found["og:image"])
    assert image.status_code == 200 and image.content.startswith(b"\x89PNG")


def test_behind_a_proxy_the_tags_name_the_public_address(address: str) -> None:
    html = patient.get(address, headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "localhost"}).text
    assert tags(html)["og:url"] == "https://localhost/"
    odd = patient.get(address, headers={"X-Forwarded-Proto": 'javascript"><b>'}).text
    assert tags(odd)["og:url"] == address


def test_the_first_paint_has_texts_as_text(address: str) -> None:
    html = patient.get(address).text
    first = html[html.index('<div class="first">') : html.index("<gradio-app")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; {{ so on }}" in first
    assert "the original&#39;s ${text}" in first and "<script>alert" not in first


def test_without_texts_the_first_paint_says_what_the_page_is() -> None:
    with served(tiny_loaded()) as (address, _):
        html = patient.get(address).text
    assert '<div class="first">' in html and "<pre>" not in html


def test_what_is_no_page_is_left_alone(address: str) -> None:
    assert patient.get(f"{address}config").json()["mode"] == "blocks"
    assert patient.head(address).status_code == 200


def test_browsers_get_the_page_and_its_files_compressed(address: str) -> None:
    page = patient.get(address, headers={"Accept-Encoding": "gzip, br"})
    plain = patient.get(address, headers={"Accept-Encoding": "identity"})
    assert page.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
    assert "<gradio-app" in page.text and "<gradio-app" in plain.text
    assert int(page.headers["content-length"]) < int(plain.headers["content-length"]) / 3
    for path in FILE.findall(page.text):
        answers = [patient.get(address + path, headers={"Accept-Encoding": "gzip"}) for _ in range(2)]
        assert answers[0].text == answers[1].text != ""
        assert all(each.headers["content-encoding"] == "gzip" for each in answers)


@pytest.mark.parametrize("taken", ["br", "gzip", "identity"])
def test_gradios_sign_of_loading_asks_for_no_frame_when_nothing_loads(address: str, taken: str) -> None:
    (file,) = Path(gradio.__file__).parent.glob("templates/frontend/assets/statustracker-*.js")
    there = file.read_text(encoding="utf-8")
    given = patient.get(f"{address}assets/{file.name}", headers={"Accept-Encoding": taken}).text
    step = re.compile(r"performance\.now\(\)-[^;]{0,24}/1e3\),(.*?)\}\)")
    (before,), (after,) = step.findall(there), step.findall(given)
    running, _, goes_on = before.partition("&&")
    assert re.fullmatch(rf"{re.escape(running)}&&\w+\.status===`pending`&&{re.escape(goes_on)}", after)
    assert step.sub("", given) == step.sub("", there)


def test_a_foreign_name_gets_no_file(address: str) -> None:
    path = address + FILE.findall(patient.get(address).text)[0]
    assert patient.get(path).status_code == 200
    assert patient.get(path, headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    ("source", "card"),
    [
        ("org/name", "https://huggingface.co/org/name"),
        ("org/name@abc", "https://huggingface.co/org/name"),
        ("./org/name", ""),
        ("/home/org/name", ""),
        ("name", ""),
    ],
)
def test_where_a_model_comes_from(source: str, card: str) -> None:
    assert model_card_address(source) == card


def test_where_the_code_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CODE_VARIABLE, raising=False)
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert code_address() == ""
    monkeypatch.setenv("SPACE_ID", "user/space")
    assert code_address() == "https://huggingface.co/spaces/user/space/tree/main"
    monkeypatch.setenv(CODE_VARIABLE, "javascript:alert(1)")
    assert code_address().startswith("https://huggingface.co/spaces/")
    monkeypatch.setenv(CODE_VARIABLE, "https://example.org/code")
    assert code_address() == "https://example.org/code"
