"""The page's address: whether it can be opened, said in one sentence before minutes of loading."""

from __future__ import annotations

import socket

from ..errors import AcipError


class PortError(AcipError):
    """The page's address cannot be opened."""


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that takes connections on an address from now on.

    Raises:
        PortError: the port is taken or the host is not this machine's; names both and how to choose another port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(
        family, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # said, so that asyncio turns off Nagle's delay
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen()
    except (OSError, OverflowError) as error:
        opened.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise PortError(
            f"Cannot open port {port} on {host} ({reason}); choose another with `--port` or GRADIO_SERVER_PORT."
        ) from None
    return opened
