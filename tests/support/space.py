"""A Hugging Face Space on this machine: `app.py` in a folder, this environment's packages, all else from a Hub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from acip_core.model.base_model import EMBEDDED_WHEEL
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
HOST = "somebody-page.hf.space"  # by which its visitors ask for it
_KEPT = ("PATH", "PYTHONPYCACHEPREFIX", "LANG", "OMP_NUM_THREADS")


@contextmanager
def space(folder: Path, hub: str, **settings: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address and process, which has an empty cache if the folder is empty.

    Args:
        folder: with what the repository of the Space has besides code, `precomputed` above all.
        hub: address of the Hub.
        settings: further variables of the environment.
    """
    place = folder / "space"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "app.py", place)  # Python looks for packages beside the file that a link leads to
    for name in ("acip_core", "precomputed"):
        if not (place / name).exists():
            (place / name).symlink_to((folder if (folder / name).exists() else ROOT) / name)
    (place / EMBEDDED_WHEEL).mkdir(
        exist_ok=True
    )  # a package without the model: a Space installs requirements.txt alone
    (place / EMBEDDED_WHEEL / "__init__.py").touch()
    port = free_port()
    places = {"HOME": folder, "HF_HOME": folder / "hub", "ACIP_CACHE": folder / "cache"}
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {name: str(path) for name, path in places.items()}
    environment |= {"SPACE_ID": "somebody/page", "HF_ENDPOINT": hub, "GRADIO_SERVER_PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=place, env=environment | settings, stderr=subprocess.PIPE
    ) as process:
        try:
            yield f"http://127.0.0.1:{port}/", process
        finally:
            process.kill()
