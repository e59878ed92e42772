"""The real page in a process of its own, whose log, memory and files can be looked at, and a visitor of it."""

from __future__ import annotations

import gc
import http.client
import json
import os
import runpy
import secrets
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from gradio_client.utils import apply_diff

from acip_core.model.size_planner import DIRECTIONS

from ..browser import ROOT

HOST = "127.0.0.1"
API = "/gradio_api"
_PATIENCE = 300  # seconds for a start
_WITHOUT_TEXT = 3  # inputs at most of a function that writes no text, whose last is what may be spent


class PageError(Exception):
    """The page did not answer as it does to a visitor."""


@dataclass(frozen=True)
class Served:
    """A running page.

    Attributes:
        folder: holds all files that it writes, and its log.
        functions: index by name: `element.event` as in the page, and the names of the API.
        inputs: how many values each takes, by index.
    """

    port: int
    process: BaseProcess
    folder: Path
    functions: dict[str, int]
    inputs: dict[int, int]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def memory(self) -> int:
        """Resident bytes (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])

    def disk(self) -> int:
        """Bytes of all files but the log."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.name != "log"]
        return sum(path.stat().st_size for path in files)


@contextmanager
def served(folder: Path, *arguments: str, cache: Path | None = None) -> Iterator[Served]:
    """Run `app.py` until the block ends; whatever it writes goes below `folder`, but for a cache named.

    It is forked from this process, as trials are: what is imported here takes 4 s of a start.

    Raises:
        PageError: it did not start.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True)
    (folder / "tmp").mkdir()
    places = {"TMPDIR": str(folder / "tmp"), "ACIP_CACHE": str(cache or folder / "cache")}
    command = ["app.py", "--port", str(port), *arguments]
    process = get_context("fork").Process(target=_page, args=(command, places, folder / "log"))
    process.start()
    try:
        functions, inputs = _functions(_configuration(port, process, folder))
        yield Served(port, process, folder, functions, inputs)
    finally:
        process.terminate()
        process.join(30)
        process.kill()
        process.join()


def _page(command: list[str], places: dict[str, str], log: Path) -> None:
    """What the shell would start; Gradio, which reads its places when it is imported, is not imported before."""
    for stream, file in enumerate((Path(os.devnull), log, log)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), stream)
    gc.freeze()  # as in a trial
    assert "gradio" not in sys.modules
    os.environ.pop("GRADIO_TEMP_DIR", None)
    os.environ |= places
    tempfile.tempdir = None  # to be found anew
    os.chdir(ROOT)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def _configuration(port: int, process: BaseProcess, folder: Path) -> dict[str, Any]:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.is_alive():
        try:
            status, body = fetched(port, "/config")
            if status == 200 and "dependencies" in (configuration := json.loads(body)):
                return configuration
        except (OSError, ValueError, http.client.HTTPException):
            pass  # not yet there, or still the page that asks for patience
        time.sleep(0.2)
    raise PageError(f"The page did not start: {(folder / 'log').read_text(errors='replace')[-500:]}")


def _functions(configuration: dict[str, Any]) -> tuple[dict[str, int], dict[int, int]]:
    elements = {part["id"]: part.get("props", {}).get("elem_id") for part in configuration["components"]}
    functions: dict[str, int] = {}
    for call in configuration["dependencies"]:
        names = [f"{elements.get(target)}.{event}" for target, event in call.get("targets", ())]
        named = call.get("api_name")
        for name in [*names, *([named] if isinstance(named, str) else [])]:
            functions.setdefault(name, call["id"])
    return functions, {call["id"]: len(call.get("inputs", ())) for call in configuration["dependencies"]}


def fetched(port: int, path: str, body: Any = None, seconds: float = 30) -> tuple[int, bytes]:
    """Status and body of one request; a POST where there is a body to send."""
    connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Visitor:
    """One session of the page, as a browser has it."""

    def __init__(self, page: Served):
        self.page, self.session = page, secrets.token_hex(6)

    def ask(self, function: str, *values: Any, seconds: float = 120) -> Generator[dict[str, Any], None, None]:
        """Messages of a run as they come; closing the iterator hangs up.

        Raises:
            PageError: refused, or no end within `seconds` of the message before.
        """
        event = self.join(self.page.functions[function], list(values))
        connection = http.client.HTTPConnection(HOST, self.page.port, timeout=seconds)
        try:
            connection.request("GET", f"{API}/queue/data?session_hash={self.session}")
            yield from _messages(connection.getresponse(), event, function)
        except (OSError, http.client.HTTPException) as error:
            raise PageError(f"{function}: {type(error).__name__} {error}") from error
        finally:
            connection.close()

    def last(self, function: str, *values: Any, seconds: float = 120) -> dict[str, Any]:
        """The last message of a run."""
        latest = deque(self.ask(function, *values, seconds=seconds), maxlen=1)
        return latest[0] if latest else {}

    def join(self, index: int, values: list[Any]) -> str:
        """Begin a run; its id.

        Raises:
            PageError: it is refused.
        """
        missing = self.page.inputs[index] - len(values)
        last = [DIRECTIONS, 1.0] if self.page.inputs[index] > _WITHOUT_TEXT else [DIRECTIONS]
        call = {"data": [*values, *last[len(last) - missing :]], "fn_index": index, "session_hash": self.session}
        try:
            status, body = fetched(self.page.port, f"{API}/queue/join", call)
        except (OSError, http.client.HTTPException) as error:
            raise PageError(f"A run cannot begin: {type(error).__name__} {error}") from error
        if status != 200:
            raise PageError(f"A run is refused: {status} {body[:200].decode(errors='replace')}")
        return json.loads(body)["event_id"]

    def stop(self, button: str) -> None:
        """Press a button that stops something; these do not wait in line."""
        call = {"data": [], "fn_index": self.page.functions[f"{button}.click"], "session_hash": self.session}
        fetched(self.page.port, f"{API}/run/predict", call)


def _messages(response: http.client.HTTPResponse, event: str, function: str) -> Iterator[dict[str, Any]]:
    """What a stream of events says about one run, Gradio's differences applied."""
    shown: list[Any] | None = None
    while line := response.readline():
        if not line.startswith(b"data:"):
            continue
        told = json.loads(line[5:])
        if told.get("event_id", event) != event:
            continue
        if told["msg"] == "process_generating" and told.get("success", True):
            parts = told["output"]["data"]
            shown = parts if shown is None else [apply_diff(*pair) for pair in zip(shown, parts, strict=True)]
            if shown and isinstance(shown[0], dict):
                yield shown[0]
        elif told["msg"] == "process_completed":
            if not told.get("success", True):
                raise PageError(f"{function}: {told['output'].get('error')}")
            return
        elif told["msg"] in ("unexpected_error", "server_stopped"):
            raise PageError(f"{function}: {told.get('message')}")
    raise PageError(f"{function}: the stream ended early")
