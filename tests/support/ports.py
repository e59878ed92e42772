"""Ports of this machine."""

from __future__ import annotations

import socket


def free_port(wanted: int = 0) -> int:
    """One that nobody listens on; the wanted one if it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
