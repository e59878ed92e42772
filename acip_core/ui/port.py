"""The page's address: whether it can be opened, said in one sentence before minutes of loading."""

from __future__ import annotations

import socket

from ..errors import AcipError


class PortError(AcipError):
    """The page's address cannot be opened."""


def refused(host: str, port: int, error: BaseException) -> PortError:
    """The sentence for an address that did not open."""
    reason = getattr(error, "strerror", None) or str(error)
    return PortError(
        f"Cannot open port {port} on {host} ({reason}); choose another with `--port` or GRADIO_SERVER_PORT."
    )


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken.

    Raises:
        PortError: names the port and how to choose another.
    """
    try:
        with socket.socket(family(host), socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise refused(host, port, error) from None


def family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
