"""Requests that no visitor makes: as raw bytes, of ten kinds, each with random parts."""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Callable
from typing import Any

from .serving import API, HOST, Served

_ODD = f"""NaN Infinity -Infinity 1e400 -1e400 1{"0" * 400} true false null [] {{}} [[1]] "word" "" -1 0 0.5 1e308
    5e-324 9007199254740993 "\\ud800" "\\u0000" {{"path":"/etc/passwd"}} {{"__type__":"update"}}
    {{"path":"/etc/passwd","meta":{{"_type":"gradio.FileData"}}}}""".split()
_BROKEN = [part.encode() for part in f"""{{ null [] 3 "text" {{"data":[1,}} {"{}" * 1000} {"[" * 100_000}
    {'{"data":' * 20_000} {{"data":null}} {{"data":"text","fn_index":0}} {{"data":[],"data":3}}""".split()]  # fmt: skip
_BROKEN += [b"", b"\xff\xfe\x00"]
_POSTED = [
    "queue/join",
    "run/predict",
    "run/complete",
    "api/complete",
    "call/complete",
    "call/v2/complete",
    "cancel",
    "reset",
    "upload",
    "component_server",
    "process_recording",
    "stream/x",
    "stream/x/close",
]
_CLOSED = f"""{API}/deep_link?session_hash=S {API}/upload {API}/upload_progress?upload_id=x {API}/file=/etc/passwd
    {API}/file=app.py /file=/etc/passwd {API}/file/etc/passwd {API}/proxy=http://127.0.0.1:1/ {API}/openapi.json
    {API}/proxy=https://example.org/ /monitoring /monitoring/summary {API}/monitoring/x {API}/runs
    {API}/run-history/records {API}/vibe-code/ {API}/dev/reload {API}/startup-events {API}/token {API}/user
    {API}/stream/S/1/2/playlist.m3u8 {API}/profiling/traces /pwa_icon /manifest.json /robots.txt /docs /login /logout
    /custom_component/x/y/z/w /svelte/x.js {API}/info {API}/login_check /?deep_link=x /?__theme=dark&deep_link=../../x
    /acip/model/x/y.zip /acip/nothing /.git/config /app.py /favicon.ico""".split()
_TRAVERSALS = [
    r"../../../../../../etc/passwd",
    r"..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    r"%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    r"....//....//etc/passwd",
    r"/etc/passwd",
    r"..\..\..\etc\passwd",
    r"%00",
    r"%252e%252e%252fetc%252fpasswd",
    r"~root/.profile",
]
_BEFORE = f"/ /static/ /assets/ /svelte/ {API}/file= /acip/model/x/ /acip/pictures/ /theme/ /acip/".split()
_HOSTS = ["evil.example", "127.0.0.1.evil.example", "evil.example:80@127.0.0.1", "[::1", "169.254.169.254"]
_HOSTS += ["", "a" * 5000, "localhost\x00"]
_METHODS = [*["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "CONNECT", "PROPFIND", "HEAD", "get"], "GET" * 500]
_NO_HTTP = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x00" * 64,
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
)
_LONG = 3_000_000  # bytes


class Request:
    """Bytes to send.

    Attributes:
        whole: whether an answer is to be expected; otherwise the sender hangs up, or stays silent for some time.
        session: whose stream tells what became of it, where it may have begun a run.
    """

    def __init__(self, data: bytes, whole: bool = True, session: str = ""):
        self.data, self.whole, self.session = data, whole, session


def http(method: str, path: str, body: bytes | None = None, host: str = HOST, more: str = "") -> bytes:
    length = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{length}{more}\r\n"
    return head.encode("latin-1", "replace") + (body or b"")


def _broken(_: Served, draw: random.Random) -> Request:
    return Request(http("POST", f"{API}/{draw.choice(_POSTED)}", draw.choice(_BROKEN)))


def _shapes(page: Served, draw: random.Random) -> Request:
    """Another number of values than a function takes, or an index that is none."""
    session = secrets.token_hex(5)
    index = draw.choice([*page.inputs, -1, 10**6, "0", None, 1.5, True])
    values = ",".join(draw.choices(_ODD, k=draw.choice((0, 1, 2, 6, 7, 8, 9, 100))))
    call = f'{{"data": [{values}], "fn_index": {json.dumps(index)}, "session_hash": "{session}"}}'
    return Request(http("POST", f"{API}/{draw.choice(_POSTED[:2])}", call.encode()), session=session)


_RIGHT: dict[str, tuple[Any, ...]] = {
    "completion.release": ("the rain", 80, 0, 1, 0, 8, False, "directions", 1.1),
    "complete": ("the rain", 80, 0, 1, 0, 8, False, "directions", 1.1),
    "compare": ("the rain", [100, 60], 0, 1, 0, 8, False, "directions", 1.1),
    "read": ("the rain in", 80, "directions"),
    "measure": (80, "directions"),
    "export": (80, "directions"),
}


def _settings(page: Served, draw: random.Random) -> Request:
    """A right call but for one or two of its values."""
    session, name = secrets.token_hex(5), draw.choice(sorted(_RIGHT))
    values = [json.dumps(value) for value in _RIGHT[name]]
    for place in draw.sample(range(len(values)), min(len(values), draw.choice((1, 1, 2)))):
        values[place] = draw.choice(_ODD)
    call = f'{{"data": [{",".join(values)}], "fn_index": {page.functions[name]}, "session_hash": "{session}"}}'
    return Request(http("POST", f"{API}/queue/join", call.encode()), session=session)


def _oversized(page: Served, draw: random.Random) -> Request:
    text = secrets.token_hex(_LONG // 2)
    session = secrets.token_hex(5)
    call = {
        "data": [text, 80, 0, 1, 0, 8, False],
        "fn_index": page.functions["completion.release"],
        "session_hash": session,
    }
    kind = draw.randrange(5)
    if kind == 0:
        return Request(http("POST", f"{API}/queue/join", json.dumps(call).encode()), session=session)
    if kind == 1:
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [text[:65_536].encode()] * (_LONG // 65_536))
        return Request(
            http("POST", f"{API}/queue/join", None, more="Transfer-Encoding: chunked\r\n") + chunks + b"0\r\n\r\n"
        )
    if kind == 2:
        name = draw.choice(("x", "../x", "x" * 300))
        part = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = part.encode() + text[: draw.choice((0, 1, _LONG))].encode() + b"\r\n--b--\r\n"
        head = f"POST {API}/upload HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        return Request(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode() + body)
    if kind == 3:
        return Request(http("GET", f"/?x={text[:100_000]}"))
    return Request(http("GET", "/", more=f"X-Long: {text[:100_000]}\r\n"))


def _closed(_: Served, draw: random.Random) -> Request:
    return Request(http(draw.choice(("GET", "GET", "HEAD", "POST")), draw.choice(_CLOSED), draw.choice((None, b"{}"))))


def _hosts(page: Served, draw: random.Random) -> Request:
    host, path = draw.choice(_HOSTS), draw.choice(("/", "/config", f"{API}/info", f"{API}/queue/join"))
    if draw.random() < 0.5:
        return Request(http("GET", path, host=host))
    return Request(
        http(
            "GET", path, host=f"{HOST}:{page.port}", more=f"X-Forwarded-Host: {host}\r\nOrigin: http://evil.example\r\n"
        )
    )


def _traversals(_: Served, draw: random.Random) -> Request:
    return Request(http("GET", draw.choice(_BEFORE) + draw.choice(_TRAVERSALS)))


def _halves(page: Served, draw: random.Random) -> Request:
    whole = _settings(page, draw).data
    return Request(whole[: draw.randrange(1, len(whole))], whole=False)


def _methods(_: Served, draw: random.Random) -> Request:
    if draw.random() < 0.4:
        return Request(draw.choice(_NO_HTTP), whole=False)
    return Request(
        http(draw.choice(_METHODS), draw.choice(("/", f"{API}/queue/join", "/config")), draw.choice((None, b"{}")))
    )


def _stale(page: Served, draw: random.Random) -> Request:
    """Sessions and runs that are no more, and runs that nobody listens to."""
    session, kind = secrets.token_hex(5), draw.randrange(6)
    if kind == 0:
        return Request(http("GET", f"{API}/queue/data?session_hash={draw.choice((session, '', '%00', 'x' * 5000))}"))
    if kind == 1:
        call = {"session_hash": session, "fn_index": 0, "event_id": draw.choice((session, "", "../x"))}
        return Request(http("POST", f"{API}/cancel", json.dumps(call).encode()))
    if kind == 2:
        return Request(http("POST", f"{API}/reset", json.dumps({"event_id": session}).encode()))
    if kind == 3:
        return Request(http("GET", f"{API}/heartbeat/{session}"), whole=False)
    if kind == 4:
        return Request(http("GET", f"{API}/call/complete/{session}"))
    call = {"data": list(_RIGHT["complete"]), "fn_index": page.functions["complete"], "session_hash": session}
    return Request(http("POST", f"{API}/queue/join", json.dumps(call).encode()))


KINDS: dict[str, Callable[[Served, random.Random], Request]] = {
    "broken JSON": _broken,
    "wrong shape": _shapes,
    "odd setting": _settings,
    "oversized": _oversized,
    "closed route": _closed,
    "other host": _hosts,
    "path": _traversals,
    "half a request": _halves,
    "method": _methods,
    "stale session": _stale,
}
