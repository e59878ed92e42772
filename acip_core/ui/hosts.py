"""Which names the page answers to: a strange one is a web site that had its own name point here (DNS rebinding).

Imports nothing that takes long.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Sequence

ANY = "*"
_SPACES = ".hf.space"  # whose names nobody else can point elsewhere
_SHOWN = 100  # characters of a strange name
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


class Hosts:
    """The names of a server.

    Args:
        bound: the address it listens on.
        also: further names; `*` for any.
    """

    def __init__(self, bound: str, also: Sequence[str] = ()):
        self._any = ANY in also
        self._loopback = is_loopback(bound) and not os.environ.get("SPACE_ID")
        names = {"localhost", bound, *also}
        if not self._loopback:
            own = socket.gethostname()
            names |= {own, f"{own}.local", socket.getfqdn(), os.environ.get("SPACE_HOST", "")}
        self._names = {name.lower().rstrip(".") for name in names if name}

    def know(self, host: str) -> bool:
        """Whether a request for this `Host` (a name or an address, with or without port) is meant for the page."""
        if not _HOST.fullmatch(host.strip()):  # what is behind the gate takes addresses apart in its own way
            return False
        name = name_of(host)
        if self._any or name in self._names:
            return True
        if not self._loopback and os.environ.get("SPACE_ID") and name.endswith(_SPACES):
            return True
        address = _address(name)
        return address is not None and (address.is_loopback or not self._loopback)

    @staticmethod
    def refusal(host: str) -> str:
        """What a request for an unknown name is told."""
        name = name_of(host)[:_SHOWN] or "nothing"
        return f"This page does not answer to the name {name}; whoever runs it can allow it: `--allowed-host {name}`."


def name_of(host: str) -> str:
    """A `Host` header without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".") if host.count(":") == 1 else host.rstrip(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
