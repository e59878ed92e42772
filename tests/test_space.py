"""The page as a Hugging Face Space starts it: app.py alone, in a folder of its own, everything else from the Hub."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import httpx

from acip_core.artifacts.writer import write_artifact
from acip_core.model.base_model import DEFAULT_HUB_ID, DEFAULT_MODEL
from tests.support import patient
from tests.support.hub import local_hub
from tests.support.space import HOST, space
from tests.support.tiny import save, tiny_artifact, tiny_base


def test_a_space_starts_from_its_files_and_the_hub(tmp_path: Path) -> None:
    """In this environment's packages; `make space` installs a clean one."""
    base = tiny_base("llama")
    write_artifact(tiny_artifact(base, 0), tmp_path / "precomputed" / DEFAULT_MODEL)
    with local_hub() as hub:
        hub.add(DEFAULT_HUB_ID, save(base, tmp_path / "model"))
        with space(tmp_path, hub.address, OMP_NUM_THREADS="1") as (address, process):
            page = _ready(address, process)
            assert page.status_code == 200 and "One model, every size" in page.text
            strange = patient.get(address, headers={"Host": "evil.example"})
            assert strange.status_code == 421
        assert any(DEFAULT_HUB_ID in asked and "model.safetensors" in asked for asked in hub.asked)


def _ready(address: str, process: subprocess.Popen[bytes]) -> httpx.Response:
    """The page, once it is served instead of the one that waits."""
    while process.poll() is None:
        try:
            answer = patient.get(address, headers={"Host": HOST})
        except httpx.TransportError:
            time.sleep(0.2)
            continue
        if answer.status_code != 503:
            return answer
        assert not (error := patient.get(f"{address}acip/state", headers={"Host": HOST}).json()["error"]), error
        time.sleep(0.2)
    raise AssertionError(process.stderr.read().decode() if process.stderr else "it ended")
