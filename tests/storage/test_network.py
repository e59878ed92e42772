"""Whether the Hub can be reached is known within seconds, by the way its own client takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import close_session

from acip_core.storage.network import hub_reachable, offline_mode

_PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HF_HUB_OFFLINE", *_PROXIES, *map(str.lower, _PROXIES)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    close_session()  # it reads proxies when it is made
    yield
    close_session()


@pytest.fixture
def server() -> Iterator[str]:
    """Answers 404 to everything, as a proxy too; closed at the end of the test."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acip_core.storage.network.get_session", lambda: pytest.fail("a connection was tried"))
    for value in ("1", "true", "ON", "yes"):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert offline_mode() and not hub_reachable()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not offline_mode()


def test_an_open_and_a_closed_port(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server)
    assert hub_reachable()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not hub_reachable()


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999", "no address", "ftp://hub"])
def test_an_endpoint_that_is_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert not hub_reachable()


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"])
def test_through_a_proxy_alone(monkeypatch: pytest.MonkeyPatch, server: str, variable: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert not hub_reachable()
    close_session()
    monkeypatch.setenv(variable, server)
    assert hub_reachable()
    close_session()
    monkeypatch.setenv("NO_PROXY", "hub.invalid")
    assert not hub_reachable()


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "gopher://127.0.0.1:70", "no proxy"])
def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch, server: str, proxy: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert not hub_reachable()
