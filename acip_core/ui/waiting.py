"""What a browser sees on the page's port until the page itself is there: what is loading, and how far it is.

Imports nothing that takes long, so that it answers at once.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ..errors import AcipError
from ..paths import assets_dir
from ..progress import Progress
from .hosts import Hosts
from .names import without_places
from .port import family, refused

_PAGE = assets_dir() / "waiting.html"
_READ_SECONDS = 2.0  # a page that asked within this time reads why there will be none


class WaitingPage:
    """Answers every request with a page that says what is loading; that page gives way to whatever comes after it.

    Every answer is 503, for who asks is not served yet.

    Args:
        also: as `Hosts`.

    Raises:
        PortError: the port is taken or the host is not this machine's.
    """

    def __init__(self, host: str, port: int, also: Sequence[str] = ()):
        self._state = {"waiting": True, "stage": "Starting", "done": 0, "total": 0, "error": ""}
        self._asked = 0.0
        self._hosts = Hosts(host, also)
        waiting = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(body=True)

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def _answer(self, body: bool) -> None:
                host = self.headers.get("Host", "")
                if not waiting._hosts.know(host):
                    refusal = Hosts.refusal(host).encode()
                    return self._send(HTTPStatus.MISDIRECTED_REQUEST, "text/plain; charset=utf-8", refusal, body)
                asked = self.path.partition("?")[0].endswith("/waiting.json")
                text = waiting._told() if asked else _PAGE.read_bytes()
                kind = "application/json" if asked else "text/html; charset=utf-8"
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, kind, text, body)

            def _send(self, status: HTTPStatus, kind: str, text: bytes, body: bool) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("Retry-After", "1")
                self.end_headers()
                if body:
                    self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            address_family = family(host)
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a browser that went away

        try:
            self._server = Server((host, port), Answer)
        except (OSError, OverflowError) as error:
            raise refused(host, port, error) from None
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="waiting page", daemon=True).start()

    def __enter__(self) -> WaitingPage:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Frees the port, after saying what went wrong."""
        if isinstance(error, AcipError):
            self.fail(str(error))
        self.close()

    def tell(self, step: Progress) -> None:
        """What is going on now."""
        self._state |= {"stage": step.stage, "done": step.done, "total": step.total}

    def fail(self, sentence: str) -> None:
        """Why there will be no page; returns once open pages had the time to read it."""
        self._state |= {"error": without_places(sentence)}
        if time.monotonic() - self._asked < _READ_SECONDS:
            time.sleep(_READ_SECONDS)

    def close(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()

    def _told(self) -> bytes:
        self._asked = time.monotonic()
        return json.dumps(self._state).encode()
