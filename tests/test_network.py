"""Whether the Hub can be reached is known at once, from the connection alone."""

from __future__ import annotations

import socket
import time

import pytest

from acip_core.network import hub_reachable, offline_mode


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was tried"))
    for value in ("1", "true", "ON", "yes"):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert offline_mode() and not hub_reachable()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not offline_mode()


def test_an_open_and_a_closed_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub_reachable()
    began = time.monotonic()
    assert not hub_reachable()
    assert time.monotonic() - began < 6


def test_an_endpoint_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:99999")
    assert not hub_reachable()


def test_behind_a_proxy_only_a_request_could_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub_reachable()
