"""Writing text against llama.cpp with a file of as many bytes, in turn, each in a process of its own, on all cores."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch

from acip_core.artifacts.gguf_export import export_gguf, gguf_plan
from acip_core.artifacts.loading import install_coding, open_model
from acip_core.generation.engine import Engine
from acip_core.model.base_model import embedded_gguf
from acip_core.model.size_planner import BOTH
from acip_core.progress import finish

from . import llama_server
from .figure import Figure, median_of
from .speed import NEW, PROMPT, decode

_MEGABYTES = 76  # of a file that llama.cpp's own types are chosen for
_PART = 0.6  # of llama.cpp's tokens per second
_PACKAGE = "xllamacpp"


def measure_llama(rounds: int = 5) -> list[Figure]:
    """The source file against the smallest size that loses nothing, and a smaller file; none without the package."""
    if find_spec(_PACKAGE) is None:
        print(f"llama.cpp is left out: `pip install -r requirements-peers.txt` installs {_PACKAGE}.")
        return []
    loaded = finish(open_model())
    finish(install_coding(loaded))
    engine, planner, source = Engine(loaded.elastic), loaded.elastic.planners[BOTH], embedded_gguf()
    assert source is not None
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        plan = finish(gguf_plan(loaded.elastic, loaded.coding, _MEGABYTES * 1e6))
        small = finish(export_gguf(loaded.elastic, loaded.artifact, plan, Path(folder) / "small", loaded.coding))
        for file, size in ((source, planner.at_loss(0.0)), (small, planner.at_bytes(_MEGABYTES * 1e6))):
            ratios = []
            with _llama(file) as seconds:
                for _ in range(rounds):
                    theirs = next(seconds)
                    ratios.append(theirs / decode(engine, size, torch.arange(3, 3 + PROMPT)[None]))
            title = f"tokens per second at {size.bytes / 1e6:.0f} MB ÷ llama.cpp's with a file of as many"
            figures.append(median_of(title, ratios, "×", _PART, "higher"))
    return figures


@contextmanager
def _llama(file: Path) -> Iterator[Iterator[float]]:
    """Seconds that llama.cpp takes for as many tokens, measured whenever the next are asked for."""
    command = [sys.executable, llama_server.__file__, str(file), str(PROMPT), str(NEW)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def seconds() -> Iterator[float]:
            while True:
                print(file=process.stdin, flush=True)
                yield float(process.stdout.readline())

        try:
            yield seconds()
        finally:
            process.kill()
