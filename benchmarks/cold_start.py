"""A Hugging Face Space's start with an empty disk: the default model in bfloat16 from a Hub on this machine."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from acip_core.model.base_model import DEFAULT_HUB_ID, load_base
from tests.support.hub import local_hub
from tests.support.space import HOST, space

from .figure import Figure

_PATIENCE = 900  # seconds
_LOOK = 0.2  # seconds between two


def measure_cold_start() -> list[Figure]:
    """Seconds from the process until the page is served, and until its slider spends bytes; no download takes time."""
    with tempfile.TemporaryDirectory() as folder, local_hub() as hub:
        model = Path(folder) / "model"
        base = load_base(dtype="bfloat16")
        base.model.save_pretrained(model)
        base.tokenizer.save_pretrained(model)
        del base
        hub.add(DEFAULT_HUB_ID, model)
        served, ready = _seconds(Path(folder), hub.address)
    return [
        Figure("a Space's start with an empty disk, its model from a Hub on this machine, to the page", served, "s"),
        Figure("the same, until its slider spends bytes", ready, "s"),
    ]


def _seconds(folder: Path, hub: str) -> tuple[float, float]:
    began = time.perf_counter()
    with space(folder, hub) as (address, process):
        _await(address, process, lambda answer: answer.status_code == 200)
        served = time.perf_counter() - began
        _await(f"{address}acip/modes", process, lambda answer: answer.json()["state"] not in ("waiting", "running"))
        return served, time.perf_counter() - began
