"""Requests as patient as all that tests wait for; httpx's own give up after 5 s, which a busy machine can take."""

from __future__ import annotations

from functools import partial

import httpx

from tests.support.browser import PATIENCE

get, head, request, stream = (
    partial(ask, timeout=PATIENCE / 1000) for ask in (httpx.get, httpx.head, httpx.request, httpx.stream)
)
Client = partial(httpx.Client, timeout=PATIENCE / 1000)
