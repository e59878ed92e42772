"""What strangers reach of the page, and what they leave behind."""

from __future__ import annotations

import json
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from acip_core.ui.gate import MOST_BYTES
from acip_core.ui.handlers import Handlers
from acip_core.ui.hosts import Hosts
from acip_core.ui.names import known_name, shown_name, without_places
from tests.support import patient
from tests.support.tiny import tiny_base
from tests.support.visitor import ROOT, served, tiny_loaded

SETTINGS = [0.0, 1.0, 0, 8, False, "", 1.0]
JSON = {"Content-Type": "application/json"}
CLOSED = """
GET gradio_api/deep_link?session_hash=s      POST gradio_api/upload            GET gradio_api/upload_progress
GET gradio_api/file=/etc/hostname            GET gradio_api/file/etc/hostname  GET gradio_api/proxy=http://localhost/
POST gradio_api/stream/x                     POST gradio_api/stream/x/close    GET gradio_api/stream/s/1/1/playlist.m3u8
POST gradio_api/component_server/            POST gradio_api/component_server  POST gradio_api/process_recording
POST gradio_api/vibe-edit                    GET gradio_api/vibe-code          POST gradio_api/vibe-starter-queries
GET gradio_api/custom_component/x/client/c/f GET gradio_api/startup-events     GET gradio_api/queue/status
GET monitoring                               GET monitoring/summary            GET monitoring/x
POST login    GET logout                     GET gradio_api/dev/reload         GET gradio_api/token
GET gradio_api/user                          GET gradio_api/login_check        GET gradio_api/mcp/
POST gradio_api/run/complete                 POST gradio_api/api/complete      POST gradio_api/call/complete
GET gradio_api/call/complete/x               POST gradio_api/call/v2/complete  GET gradio_api/openapi.json
GET gradio_api/runs  GET svelte/x            GET gradio_api/run-history/records  GET gradio_api/profiling/summary
GET docs             GET openapi.json        DELETE gradio_api/queue/join      PUT config
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Handlers]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        with served(tiny_loaded()) as (address, handlers):
            yield address, handlers


@pytest.fixture
def client(server: tuple[str, Handlers]) -> Iterator[httpx.Client]:
    with patient.Client(base_url=server[0]) as client:
        yield client


def function(client: httpx.Client, name: str) -> int:
    return next(d["id"] for d in client.get("config").json()["dependencies"] if d["api_name"] == name)


def called(client: httpx.Client, name: str, data: list[Any], session: str = "somebody") -> list[dict[str, Any]]:
    """The messages of a call."""
    call = {"session_hash": session, "fn_index": function(client, name), "data": data}
    client.post("gradio_api/queue/join", content=json.dumps(call), headers=JSON).raise_for_status()
    with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as answer:
        told = [json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:")]
    assert all(message.get("success", True) for message in told)
    first = [message["output"]["data"][0] for message in told if message["msg"] == "process_generating"][:1]
    return first + [message["output"]["data"][0] for message in told if message["msg"] == "process_completed"]


def test_messages_do_not_look_for_libraries_that_draw(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            looked.append(name)

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert called(client, "complete", ["Hello", 60, *SETTINGS])[-1]["state"] == "done"
    assert "matplotlib" not in looked


@pytest.mark.parametrize(("method", "path"), re.findall(r"([A-Z]+) (\S+)", CLOSED))
def test_routes_that_the_page_does_not_use_are_not_there(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path, headers=JSON if method != "GET" else {})
    assert answer.status_code == 404 and len(answer.content) < 200


def test_no_answer_tells_where_anything_lies(client: httpx.Client, server: tuple[str, Handlers]) -> None:
    places = [str(ROOT), str(Path.home()) + "/", tempfile.gettempdir() + "/", sys.prefix]
    paths = ["", "config", "config?deep_link=x", "gradio_api/info", "gradio_api/info?all_endpoints=true", "theme.css"]
    paths += ["gradio_api/app_id", "assets/none.js", "static/none", "static/%2e%2e/%2e%2e/x", "assets//etc/hostname"]
    paths += ["acip/pictures/method", "acip/pictures/history", "acip/pictures/none", "acip/modes", "acip/model/x/y.zip"]
    answers = {path: client.get(path).text for path in paths}
    answers["complete"] = json.dumps(called(client, "complete", ["Hello", "x", *SETTINGS]))
    answers["export"] = json.dumps(called(client, "export", [60, ""]))
    for path, answer in answers.items():
        assert not [place for place in places if place in answer], path
    assert '"/load_example"' not in answers["gradio_api/info?all_endpoints=true"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"[]", 400),
        (b'{"session_hash": null, "fn_index": 8, "data": []}', 400),
        (b'{"session_hash": "../x", "fn_index": 8, "data": []}', 400),
        (b'{"session_hash": "x", "fn_index": 9999, "data": []}', 404),
        (b'{"session_hash": "x", "fn_index": true, "data": []}', 404),
        (b'{"session_hash": "x", "fn_index": COMPLETE, "data": ["too few"]}', 400),
        (b'{"session_hash": "x", "fn_index": COMPLETE, "data": {"prompt": ""}}', 400),
        (
            b'{"session_hash": "x", "fn_index": COMPLETE, "data": [{"path": "/etc/hosts"}, 9, 0, 1, 0, 8, false, ""]}',
            400,
        ),
        (
            b'{"session_hash": "x", "fn_index": COMPLETE, "data": ["", 9, 0, 1, 1' + b"0" * 9999 + b', 8, false, ""]}',
            400,
        ),
    ],
)
def test_a_call_that_is_none_is_refused_in_a_sentence(client: httpx.Client, body: bytes, status: int) -> None:
    body = body.replace(b"COMPLETE", str(function(client, "complete")).encode())
    answer = client.post("gradio_api/queue/join", content=body, headers=JSON)
    assert answer.status_code == status and answer.json()["detail"].count(".") == 1


@pytest.mark.parametrize(
    "bad", ["x", [7], True, float("nan"), float("inf"), 10**400, -(10**400), 1e300], ids=lambda bad: str(bad)[:6]
)
@pytest.mark.parametrize("place", range(1, 8))
def test_values_of_any_kind_are_refused_in_a_sentence_and_leave_nothing(
    client: httpx.Client, server: tuple[str, Handlers], place: int, bad: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    data: list[Any] = ["Hello", 60, *SETTINGS]
    data[place] = bad
    last = called(client, "complete", data)[-1]
    assert last["state"] == "error" and last["status"].count(".") >= 1
    if place == 1:
        calls = {"measure": [bad, ""], "export": [bad, ""], "read": ["Hello there", bad, ""]}
        if not isinstance(bad, list):
            calls["compare"] = ["Hello", [100, bad], *SETTINGS]
        for name, values in calls.items():
            assert called(client, name, values)[-1]["state"] == "error"
        assert called(client, "compare", ["Hello", bad, *SETTINGS])[-1]["state"] == "error"
    assert server[1].visitors.count == 0 and "Traceback" not in capfd.readouterr().err


def test_oversized_requests_leave_nothing(client: httpx.Client, server: tuple[str, Handlers]) -> None:
    call = {"session_hash": "x", "fn_index": function(client, "complete"), "data": ["x" * 4_000_000, 60, *SETTINGS]}
    body = json.dumps(call).encode()
    pieces = [body[i : i + 65_536] for i in range(0, len(body), 65_536)]
    folder, process = Path(tempfile.gettempdir()), psutil.Process()

    def sent(count: int) -> None:
        for i in range(count):
            content = iter(pieces) if i % 2 else body
            try:
                answer = client.post("gradio_api/queue/join", content=content, headers=JSON)
            except httpx.WriteError:
                continue  # refused while it was still being sent
            assert answer.status_code == 413 and f"{MOST_BYTES:,} bytes" in answer.json()["detail"]

    sent(20)
    memory, files = process.memory_info().rss, set(folder.rglob("*"))
    sent(200)
    assert process.memory_info().rss - memory < 30e6  # 800 MB were sent
    assert set(folder.rglob("*")) == files and server[1].visitors.count == 0


def test_a_long_prompt_still_gets_its_own_sentence(client: httpx.Client) -> None:
    assert "shorten the prompt" in called(client, "complete", ["word " * 40_000, 60, *SETTINGS])[-1]["status"]


def test_a_page_that_tells_a_longer_body_than_it_sends(server: tuple[str, Handlers]) -> None:
    host, port = server[0].removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as stream:
        head = (
            f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999999999999999999999\r\n\r\n"
        )
        stream.sendall(head.encode())
        assert stream.recv(100).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


@pytest.mark.parametrize("header", ["Host", "X-Forwarded-Host"])
def test_a_web_site_that_points_its_name_here_reads_nothing(client: httpx.Client, header: str) -> None:
    for path in ("", "config", "gradio_api/info", "acip/pictures/method"):
        answer = client.get(path, headers={header: "evil.example:7860"})
        assert answer.status_code == 421 and "--allowed-host evil.example" in answer.text
    for name in ("localhost:1", "127.0.0.1", "[::1]:7860", "LOCALHOST."):
        assert client.get("config", headers={header: name}).status_code == 200


def test_which_names_a_server_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    here, everywhere = Hosts("127.0.0.1"), Hosts("0.0.0.0", ["page.example"])
    assert not here.know("192.168.1.5:7860") and not here.know(socket.gethostname() + ".example") and not here.know("")
    for name in (
        "192.168.1.5:7860",
        "[fe80::1]:80",
        "[fe80::1]",
        socket.gethostname(),
        "Page.Example:443",
        "localhost",
    ):
        assert everywhere.know(name), name
    assert not everywhere.know("page.example.evil") and not everywhere.know("somebody-page.hf.space")
    assert Hosts("127.0.0.1", ["*"]).know("anything")
    for broken in (
        "::1",
        "::1:7860",
        "[::1",
        "localhost:port",
        "localhost:",
        "local host",
        "user@localhost",
        "localhost/x",
    ):
        assert not here.know(broken) and not everywhere.know(broken), broken
    assert here.know("[::1]:7860") and here.know("localhost:7860")
    monkeypatch.setenv("SPACE_ID", "somebody/page")
    monkeypatch.setenv("SPACE_HOST", "page.somebody.example")
    space = Hosts("0.0.0.0")
    assert (
        space.know("somebody-page.hf.space") and space.know("page.somebody.example") and not space.know("evil.example")
    )


def test_a_model_is_called_what_people_call_it() -> None:
    base = tiny_base()
    for source, name in (
        ("SmolLM2-135M-Instruct.Q4_1", "SmolLM2-135M-Instruct"),
        ("/somewhere/llama-3-8b-IQ4_XS.gguf", "llama-3-8b"),
        ("/somewhere/model-f16.gguf", "model"),
        ("/somewhere/my.model.gguf", "my.model"),
        ("/somewhere/Q8_0.gguf", "Q8_0"),
    ):
        assert known_name(replace(base, source=source, file=Path(source))) == name
        assert known_name(replace(base, source="org/model-Q4_0", file=None)) == "org/model-Q4_0"


def test_names_are_shown_and_places_are_not(tmp_path: Path) -> None:
    assert shown_name("org/model") == "org/model" and shown_name("SmolLM2-135M") == "SmolLM2-135M"
    for place in (str(tmp_path / "my model"), "~/my model", "./my model", "some/where/my model"):
        assert shown_name(place) == "my model"
    told = f"Made from {tmp_path}/a b and '/home/me/x.gguf', not org/model (https://example.org/a/b): and/or 3/4 ~/y/z."
    shown = "Made from a b and 'x.gguf', not org/model (https://example.org/a/b): and/or 3/4 z."
    assert without_places(told, f"{tmp_path}/a b", None) == shown
