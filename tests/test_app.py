"""Starting the page: what can go wrong is one sentence on stderr, not a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
import typer
from playwright.sync_api import expect
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from acip_core.cli import page as app
from acip_core.errors import AcipError
from acip_core.progress import Progress
from acip_core.ui.port import PortError, listening_socket
from acip_core.ui.server import PageServer
from tests.support import patient
from tests.support.browser import Newcomer
from tests.support.ports import free_port
from tests.support.visitor import SLIDER, opened, page_port, running, wait_for, wait_state

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def started(*arguments: str) -> Result:
    program = typer.Typer()
    program.command()(app.main)
    return CliRunner().invoke(program, arguments)


def one_sentence(result: Result, *named: str) -> None:
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.output
    for name in named:
        assert name in result.stderr


def test_port_taken_is_said_before_anything_is_loaded(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acip_core.artifacts.loading.open_model", lambda *_: pytest.fail("the model was loaded"))
    one_sentence(started("--port", str(taken)), str(taken), "GRADIO_SERVER_PORT")


def test_a_host_that_is_not_ours() -> None:
    with pytest.raises(PortError, match=r"192\.0\.2\.1"):
        listening_socket("192.0.2.1", free_port())


def test_unknown_hub_id_without_network() -> None:
    one_sentence(started("nobody/nothing", "--port", str(free_port())), "nobody/nothing")


def test_missing_artifact(app_folders: tuple[Path, Path], tmp_path: Path) -> None:
    model = str(app_folders[0])
    result = started(model, "--artifact", str(tmp_path / "none"), "--port", str(free_port()))
    one_sentence(result, str(tmp_path / "none"), "precompute")


@pytest.mark.parametrize("damage", ["truncated", "nan"])
def test_damaged_artifact(app_folders: tuple[Path, Path], tmp_path: Path, damage: str) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in app_folders[1].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    scores = broken / "scores.safetensors"
    if damage == "truncated":
        scores.write_bytes(scores.read_bytes()[:-9])
    else:
        tensors = load_file(scores)
        next(iter(tensors.values()))[0] = torch.nan
        save_file(tensors, scores)
    result = started(str(app_folders[0]), "--artifact", str(broken), "--port", str(free_port()))
    one_sentence(result, "scores.safetensors")


def test_starts_prints_its_address_and_stops_on_ctrl_c(app_folders: tuple[Path, Path]) -> None:
    port = free_port()
    command = [
        sys.executable,
        "app.py",
        str(app_folders[0]),
        "--artifact",
        str(app_folders[1]),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert process.stdout is not None
    seen = []  # what a browser gets meanwhile
    with patient.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        while process.poll() is None and (not seen or seen[-1] != 200):
            time.sleep(0.02)  # the processor is for the start
            try:
                answer = client.get(f"http://127.0.0.1:{port}/")
            except httpx.TransportError:
                assert not seen  # the port is never free again
                continue
            seen.append(answer.status_code)
            assert ("Starting …" in answer.text) == (answer.status_code == 503)
    assert seen[0] == 503 and seen[-1] == 200
    line = next(line for line in process.stdout if "is ready at" in line)
    assert f"http://localhost:{port}/" in line
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_a_browser_reads_what_is_loading_and_why_nothing_comes() -> None:
    port = free_port()
    with PageServer("127.0.0.1", port) as server:
        server.waiting.tell(Progress("factorizing", 3, 8))
        state = patient.get(f"http://127.0.0.1:{port}/some/acip/state?x").json()
        assert state == {"version": "", "stage": "factorizing", "done": 3, "total": 8, "error": ""}
        reader = ThreadPoolExecutor(1).submit(server.waiting.fail, AcipError("There is no model."))
        while not (state := patient.get(f"{server.address}acip/state").json())["error"]:
            pass
        assert state["error"] == "There is no model."
        for method in ("HEAD", "POST", "OPTIONS"):
            assert patient.request(method, server.address).status_code == 503
        reader.result()
    listening_socket("127.0.0.1", port).close()


@pytest.mark.browser
def test_a_page_whose_server_restarts_connects_again_and_loses_nothing(
    newcomer: Newcomer, app_folders: tuple[Path, Path]
) -> None:
    with page_port() as port, running(app_folders, port) as server:
        wait_for(port)
        page = opened(newcomer(), f"http://localhost:{port}/", [])
        wait_state(page, "done", 100)
        page.focus(SLIDER)
        page.keyboard.press("PageDown")
        wait_state(page, "done", 90)
        page.click("#reading > button")
        page.click("#own-text textarea")
        page.fill("#own-text textarea", "A text of my own")
        page.fill("#prompt textarea", "Another prompt")
        page.click("#run")
        wait_state(page, "running", 90)
        server.kill()
        server.join()
        expect(page.locator(".toast-wrap")).to_contain_text("Connection to the server was lost")
    with running(app_folders, port):
        expect(page.locator("#header .note")).to_contain_text("connected again")
        wait_state(page, "done", 90)
        expect(page.locator("#own-text textarea")).to_have_value("A text of my own")
        assert page.locator("#prompt textarea").input_value() == "Another prompt"
        assert page.locator("#completion .prompt").text_content() == "Another prompt"
        expect(page.locator("#visits .chips li")).to_have_count(3)
        page.reload()
        wait_state(page, "done", 90)
        assert page.locator("#header .note").count() == 0
        page.close()


@pytest.mark.parametrize(
    ("options", "space", "may"),
    [
        ((), "", True),
        (("--host", "::1"), "", True),
        (("--no-visitors-may-switch",), "", False),
        (("--host", "0.0.0.0"), "", False),
        (("--host", "127.0.0.1"), "somebody/page", False),
        (("--host", "0.0.0.0", "--visitors-may-switch"), "somebody/page", True),
    ],
)
def test_visitors_switch_the_model_only_where_the_page_is_private(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], space: str, may: bool
) -> None:
    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
    monkeypatch.setenv("SPACE_ID", space)
    asked: list[object] = []
    monkeypatch.setattr(app, "serve", lambda *arguments: asked.extend(arguments))
    result = started(*options, "--allowed-host", "a.example", "--allowed-host", "b.example")
    assert result.exit_code == 0 and asked[-2:] == [["a.example", "b.example"], may]


def test_what_is_loading_is_told_to_no_strange_name_and_tells_no_place() -> None:
    with PageServer("127.0.0.1", free_port(), ["page.example"]) as server:
        address = f"{server.address}acip/state"
        for path in ("acip/state", ""):
            answer = patient.get(server.address + path, headers={"Host": "evil.example"})
            assert answer.status_code == 421 and "--allowed-host evil.example" in answer.text
        assert patient.get(address, headers={"Host": "page.example:80"}).status_code == 200
        ThreadPoolExecutor(1).submit(server.waiting.fail, AcipError("/home/me/model/config.json is damaged."))
        while not (error := patient.get(address).json()["error"]):
            pass
        assert error == "config.json is damaged."
