"""Reading an exported folder as somebody does who has transformers and nothing of this project."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

from tests.support.device import DEVICE
from tests.support.tiny import calibration

_READER = """
import gc, os, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
for line in sys.stdin:
    folder, ids, out = line.rstrip().split("\\t")
    if (child := os.fork()) == 0:
        gc.freeze()
        assert not any("acip" in path for path in sys.modules)
        AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype="auto")
        with torch.inference_mode():
            torch.save(model(torch.load(ids)).logits, out)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def read_by_others(folder: Path, place: Path) -> torch.Tensor:
    """Logits of `calibration()`, computed in a new process that never imports this project.

    Args:
        place: an empty place for what the two processes tell each other.
    """
    reader = _reader()
    assert reader.stdin is not None and reader.stdout is not None
    torch.save(calibration(), place / "ids.pt")
    print(folder, place / "ids.pt", place / "logits.pt", sep="\t", file=reader.stdin, flush=True)
    assert reader.stdout.readline() == "0\n"
    return torch.load(place / "logits.pt", map_location=DEVICE)


@cache
def _reader() -> subprocess.Popen[str]:
    """Has imported transformers, which takes 4 s, and forks a process for each folder; ends with this one."""
    home = tempfile.mkdtemp(prefix="acip-tests-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HOME": home}
    command = [sys.executable, "-c", _READER]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=home, env=environment, stdin=pipe, stdout=pipe, text=True)
