"""The real page in a process of its own, whose log, memory and files can be looked at, and a visitor of it."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradio_client.utils import apply_diff

from acip_core.model.size_planner import DIRECTIONS

from ..browser import ROOT

HOST = "127.0.0.1"
API = "/gradio_api"
_PATIENCE = 300  # seconds for a start


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
    process: subprocess.Popen[bytes]
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

    Raises:
        PageError: it did not start.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True)
    (folder / "tmp").mkdir()
    places = {"TMPDIR": str(folder / "tmp"), "ACIP_CACHE": str(cache or folder / "cache")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), *arguments],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={k: v for k, v in os.environ.items() if k != "GRADIO_TEMP_DIR"} | places,
        )  # fmt: skip
    try:
        functions, inputs = _functions(_configuration(port, process, folder))
        yield Served(port, process, folder, functions, inputs)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _configuration(port: int, process: subprocess.Popen[bytes], folder: Path) -> dict[str, Any]:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
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
        mode = [DIRECTIONS] * (self.page.inputs[index] - len(values))  # what may be spent comes last
        call = {"data": [*values, *mode], "fn_index": index, "session_hash": self.session}
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
