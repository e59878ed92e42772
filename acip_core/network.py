"""Whether the Hugging Face Hub can be reached, known within seconds instead of after its library's many retries."""

from __future__ import annotations

import os
import socket
import urllib.request
from urllib.parse import urlsplit

_TIMEOUT = 4  # seconds


def offline_mode() -> bool:
    """Whether the user asked for copies on this machine only."""
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")


def hub_reachable() -> bool:
    """False in offline mode or when no connection opens; true behind a proxy, where only a request could tell."""
    if offline_mode():
        return False
    if urllib.request.getproxies().get("https"):
        return True
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
        socket.create_connection((endpoint.hostname or "", port), timeout=_TIMEOUT).close()
    except (OSError, ValueError):
        return False
    return True
