"""A Hugging Face Space's start with an empty disk: the default model in bfloat16 from a Hub on this machine."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from acip_core.model.base_model import DEFAULT_HUB_ID, load_base
from acip_core.model.packed_codes import pack
from acip_core.progress import finish
from tests.support.hub import Hub, local_hub
from tests.support.space import HOST, space

from .figure import Figure

_CODES = "somebody/codes"
_PATIENCE = 900.0  # seconds
_LOOK = 0.2  # seconds between two


def measure_cold_start() -> list[Figure]:
    """Seconds from the process until the page is served, and until its slider spends bytes; no download takes time."""
    with tempfile.TemporaryDirectory() as folder, local_hub() as hub:
        places = [Path(folder) / name for name in ("model", "making", "fetching", "published")]
        model, making, fetching, published = places
        base = load_base(dtype="bfloat16")
        base.model.save_pretrained(model)
        base.tokenizer.save_pretrained(model)
        del base
        hub.add(DEFAULT_HUB_ID, model)
        served, made = _seconds(making, hub)
        codes = next((making / "cache" / "codes").iterdir())
        finish(pack(codes, [path.name for path in codes.glob("*.safetensors")], published))
        hub.add(_CODES, published)
        _, fetched = _seconds(fetching, hub, ACIP_CODES_REPO=_CODES)
    start = "a Space's start with an empty disk, its model from a Hub on this machine"
    return [
        Figure(f"{start}, to the page", served, "s"),
        Figure(f"{start}, until its slider spends bytes", made, "s"),
        Figure("the same, codes from the Hub, too", fetched, "s"),
    ]


def _seconds(folder: Path, hub: Hub, **settings: str) -> tuple[float, float]:
    folder.mkdir()
    began = time.perf_counter()
    with space(folder, hub.address, **settings) as (address, process):
        _await(address, process, lambda answer: answer.status_code == 200)
        served = time.perf_counter() - began
        _await(f"{address}acip/modes", process, lambda answer: answer.json()["state"] == "ready")
        return served, time.perf_counter() - began


def _await(address: str, process: subprocess.Popen[bytes], holds: Callable[[httpx.Response], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"The page did not start: {process.communicate()[1].decode()[-500:]}")
        try:
            if holds(httpx.get(address, headers={"Host": HOST}, timeout=60)):
                return
        except httpx.TransportError:  # it does not listen yet
            pass
        time.sleep(_LOOK)
    raise RuntimeError(f"{address} was not ready after {_PATIENCE:.0f} seconds.")
