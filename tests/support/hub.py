"""A small Hugging Face Hub on this machine: enough of its protocol to fetch, to refuse, and to publish."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secret"


@dataclass
class Hub:
    """Repositories by name: files by revision; those in `private` are shown to whoever has the token."""

    address: str = ""
    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    broken: bool = False  # takes uploads and hangs up

    def add(self, repo: str, folder: Path, revision: str = "main") -> None:
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repos.setdefault(repo, {})[revision] = files


@contextmanager
def local_hub() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            return self._json({"name": "user"}) if self._known() else self._error(401, "InvalidToken")
        if parts[:2] == ["api", "models"]:
            repo, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
            if (files := self._files(repo, revision)) is None:
                return None
            if parts[4:5] == ["tree"]:
                entries = [{"type": "file", "path": n, "size": len(d), "oid": _digest(d)} for n, d in files.items()]
                return self._json(entries)
            siblings = [{"rfilename": name} for name in files]
            return self._json({"id": repo, "sha": _commit(repo, revision), "siblings": siblings})
        if len(parts) > 4 and parts[2] == "resolve":
            repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            known = {_commit(repo, r): r for r in self.hub.repos.get(repo, {})}
            revision = known.get(revision, revision)
            if (files := self._files(repo, revision)) is None:
                return None
            if name not in files:
                return self._error(404, "EntryNotFound")
            headers = {"ETag": f'"{_digest(files[name])}"', "X-Repo-Commit": _commit(repo, revision)}
            return self._send(200, files[name], headers)
        return self._error(404, "RepoNotFound")

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"POST {path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if not self._known():
            return self._error(401, "InvalidToken")
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
            if repo.startswith("others/"):
                return self._error(403, "Forbidden")
            self.hub.repos.setdefault(repo, {"main": {}})
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.hub.private.add(repo)
            return self._json({"url": f"{self.hub.address}/{repo}", "id": repo})
        repo, verb = "/".join(path.split("/")[3:5]), path.split("/")[5]
        if self.hub.broken:
            self.close_connection = True
            return None
        if verb == "preupload":
            files = [f | {"uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
            return self._json({"files": files})
        if verb == "commit":
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.hub.repos[repo]["main"][entry["value"]["path"]] = content
            commit = _commit(repo, "main")
            return self._json({"commitUrl": f"{self.hub.address}/{repo}/commit/{commit}", "commitOid": commit})
        return self._json({})

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        revisions = self.hub.repos.get(repo)
        if revisions is None or (repo in self.hub.private and not self._known()):
            return self._error(401 if not self._known() else 404, "RepoNotFound")
        named = {_commit(repo, r): r for r in revisions}
        files = revisions.get(named.get(revision, revision))
        return self._error(404, "RevisionNotFound") if files is None else files

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, code: int, kind: str) -> None:
        self._send(code, b"{}", {"X-Error-Code": kind, "X-Error-Message": kind})

    def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _commit(repo: str, revision: str) -> str:
    return _digest(f"{repo}@{revision}".encode())
