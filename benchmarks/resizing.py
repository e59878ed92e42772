"""Sizes in bytes of the default model: making and reading its codes, the pass after a change of size, memory."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from gradio_client import Client

from acip_core.artifacts.loading import Loaded, install_coding, open_model
from acip_core.progress import finish
from acip_core.storage.mapped import give_pages_back

from .browser import ROOT, Server, await_codes, served
from .figure import Figure, clock, median_of

_USED = {"both": (100, 36, 30, 24, 15), "bits": (36, 30, 24, 20, 15), "directions": (95, 80, 60, 40, 30)}  # percent
_PROMPT = "A recipe for bread begins with"
# What the page imports, and kernels as its first products load them, without a model.
_LIBRARIES = """
import torch, acip_core.ui.launch, acip_core.ui.page, acip_core.ui.memory, acip_core.artifacts.export
from transformers import LlamaForCausalLM
from acip_core.model.kernels import linear
linear(torch.ones(64, 576), torch.ones(576, 576))
acip_core.ui.memory.give_back()
print(open("/proc/self/statm").read().split()[1])
"""
_CHANGES = 20
_RANGE = (36e6, 97e6)  # bytes


def measure_resizing() -> list[Figure]:
    """Codes are made in an empty cache; nothing where the artifact has no operating points."""
    loaded = finish(open_model())
    if loaded.coding is None:
        return []
    with tempfile.TemporaryDirectory(prefix="acip-") as cache, mock.patch.dict(os.environ, ACIP_CACHE=cache):
        making, reading = _seconds(loaded), _seconds(loaded)
        extra = _extra(loaded)
    weights = sum(4 * parameter.numel() for parameter in loaded.elastic.model.parameters())
    del loaded
    return [
        Figure("making the codes of all levels, once per machine", making, "s", 180),
        Figure("reading the codes at a later start", reading, "s", 25),
        median_of("first pass after a change of size less a later one", [1e3 * s for s in extra], "ms", 100),
        Figure("first pass after a change of size less a later one, the worst", 1e3 * max(extra), "ms", 100),
        *_resident(weights),
    ]


def _seconds(loaded: Loaded) -> float:
    began = time.perf_counter()
    finish(install_coding(loaded))
    return time.perf_counter() - began


def _extra(loaded: Loaded) -> list[float]:
    elastic, draw = loaded.elastic, random.Random(0)
    ids = torch.arange(10, 20)[None].to(elastic.model.device)
    planner = elastic.planners["both"]

    def passed() -> float:
        began = clock()
        with torch.inference_mode():
            elastic.model(ids, use_cache=False)
        return clock() - began

    extra = []
    for _ in range(_CHANGES):
        elastic.apply(planner.at_bytes(draw.uniform(*_RANGE)))
        give_pages_back()  # as the page does between visitors
        first = passed()
        extra.append(first - min(passed() for _ in range(3)))
    return extra


def _resident(weights: int) -> list[Figure]:
    """The page's resident memory (Linux) once every mode was used: texts, sizes side by side, a text that is read.

    Args:
        weights: bytes in float32.
    """
    counted = subprocess.run([sys.executable, "-c", _LIBRARIES], cwd=ROOT, check=True, capture_output=True, text=True)
    libraries = int(counted.stdout.split()[-1]) * os.sysconf("SC_PAGE_SIZE")
    after = []
    with served() as server:
        await_codes(server.address)
        client = Client(server.address, verbose=False)
        with _watched(server) as seen:
            for mode, sizes in _USED.items():
                for use in _uses(client, mode, sizes):
                    client.predict(**use)
                    after.append(server.memory())
    name = "resident memory of the page less its libraries' ÷ float32 weights"
    return [
        Figure(f"{name}, every mode used", max(after) / weights - libraries / weights, "×", 2.5),
        Figure(f"{name}, the most while they run", max(seen) / weights - libraries / weights, "×"),
        Figure("resident memory of the page's libraries", libraries / 1e6, "MB"),
    ]


def _uses(client: Client, mode: str, sizes: tuple[int, ...]) -> Iterator[dict]:
    sampling = {"temperature": 0, "top_p": 1, "seed": 0, "length": 16, "chat": False, "repetition_penalty": 1.1}
    for percent in sizes:
        yield {"prompt": _PROMPT, "percent": percent, **sampling, "mode": mode, "api_name": "/complete"}
    yield {"prompt": _PROMPT, "percents": list(sizes[:4]), **sampling, "mode": mode, "api_name": "/compare"}
    yield {"text": _PROMPT, "percent": sizes[-1], "mode": mode, "api_name": "/read"}


@contextmanager
def _watched(server: Server) -> Iterator[list[int]]:
    """Resident bytes of a server, every twentieth of a second within the block."""
    seen, ended = [server.memory()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            seen.append(server.memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
