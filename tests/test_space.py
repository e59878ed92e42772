"""The page as a Hugging Face Space starts it: app.py alone, in a folder of its own, everything else from the Hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx

from acip_core.artifacts.writer import write_artifact
from acip_core.model.base_model import DEFAULT_HUB_ID, DEFAULT_MODEL, EMBEDDED_WHEEL
from tests.support import patient
from tests.support.hub import local_hub
from tests.support.tiny import save, tiny_artifact, tiny_base
from tests.support.visitor import free_port

ROOT = Path(__file__).parent.parent
SPACE = "somebody-page.hf.space"


def test_a_space_starts_from_its_files_and_the_hub(tmp_path: Path) -> None:
    """In this environment's packages; `make space` installs a clean one."""
    space, base = tmp_path / "space", tiny_base("llama")
    space.mkdir()
    shutil.copy(ROOT / "app.py", space)  # Python looks for packages beside the file that a link leads to
    (space / "acip_core").symlink_to(ROOT / "acip_core")
    write_artifact(tiny_artifact(base, 0), space / "precomputed" / DEFAULT_MODEL)
    (space / EMBEDDED_WHEEL).mkdir()  # a package without the model: a Space installs requirements.txt alone
    (space / EMBEDDED_WHEEL / "__init__.py").touch()
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPYCACHEPREFIX", "LANG") if name in os.environ}
    with local_hub() as hub:
        hub.add(DEFAULT_HUB_ID, save(base, tmp_path / "model"))
        port = free_port()
        places = {"HOME": tmp_path, "HF_HOME": tmp_path / "hub", "ACIP_CACHE": tmp_path / "cache"}
        environment = kept | {name: str(place) for name, place in places.items()}
        environment |= {"SPACE_ID": "somebody/page", "HF_ENDPOINT": hub.address, "GRADIO_SERVER_PORT": str(port)}
        environment |= {"OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            [sys.executable, "app.py"], cwd=space, env=environment, stderr=subprocess.PIPE
        ) as process:
            try:
                page = _ready(f"http://127.0.0.1:{port}/", process)
                assert page.status_code == 200 and "One model, every size" in page.text
                strange = patient.get(f"http://127.0.0.1:{port}/", headers={"Host": "evil.example"})
                assert strange.status_code == 421
            finally:
                process.kill()
        assert any(DEFAULT_HUB_ID in asked and "model.safetensors" in asked for asked in hub.asked)


def _ready(address: str, process: subprocess.Popen[bytes]) -> httpx.Response:
    """The page, once it is served instead of the one that waits."""
    while process.poll() is None:
        try:
            answer = patient.get(address, headers={"Host": SPACE})
        except httpx.TransportError:
            time.sleep(0.2)
            continue
        if answer.status_code != 503:
            return answer
        assert not (error := patient.get(f"{address}acip/state", headers={"Host": SPACE}).json()["error"]), error
        time.sleep(0.2)
    raise AssertionError(process.stderr.read().decode() if process.stderr else "it ended")
